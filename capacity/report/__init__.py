"""Reports: one small file per output format. All of them show the tables of `table` and the sentence of `sentence`.

`figures` derives the few numbers that no record holds, `cells` is what a table is made of, `comparison` sets two JSON
reports against each other. Numbers for machines stay SI floats; numbers for people go through `capacity.units`.
"""
