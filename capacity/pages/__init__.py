"""The dashboard's pages: thin. Inputs become a `state.View`, a cached call answers it, tables and charts show it.

`state` is the view and its URL, `session` keeps it between reruns, `controls` names its inputs, `sidebar` draws them,
`cached` answers it, `show` draws what several pages share. The other modules are one page each. Nothing here
calculates.
"""
