"""The door: where the operator asks people to sign in (OIDC, `[auth]` of secrets.toml), nobody else sees a page."""

from __future__ import annotations

import os

import streamlit as st

from capacity.pages.show import escaped

ASKED = "CAPACITY_LOGIN"
"""Environment variable: addresses and @domains that may enter, or "any" for whoever the provider lets in."""
TRUSTED = "CAPACITY_LOGIN_TRUSTED"
"""Environment variable: set where the provider does not say that addresses are verified, and its tenant is yours."""
ANY = "any"


def opened() -> bool:
    """Return whether whoever is there may enter; where not, draw what to do about it.

    Without `[auth]` nobody is asked, unless `CAPACITY_LOGIN` is set: then a setup that fell off keeps everybody out.
    """
    asked, signed_in = os.environ.get(ASKED, ""), st.user.get("is_logged_in")
    if signed_in is None and not asked:
        return True
    if signed_in is None:
        st.error(f"{ASKED} asks people to sign in, and no provider is set up: see docs/how-to/deploy.md.")
        return False
    if not signed_in:
        st.title("Capacity planner", anchor=False)
        st.button("Sign in", on_click=st.login, type="primary")
        return False
    email = str(st.user.get("email") or "")
    verified = st.user.get("email_verified") is True or bool(os.environ.get(TRUSTED))
    if not allowed(email, verified=verified, asked=asked or ANY):
        st.error(escaped(f"{email or 'An account without an address'} may not enter; ask who runs this dashboard."))
        st.button("Sign out", on_click=st.logout)
        return False
    st.sidebar.button(escaped(f"Sign out {email}"), on_click=st.logout, key="sign-out")
    return True


def allowed(email: str, *, verified: bool, asked: str) -> bool:
    """Return whether an address is among those asked for, in any case of letters.

    Examples
    --------
    >>> [allowed(name, verified=True, asked="@a.org, eve@b.org") for name in ("Bob@a.org", "eve@b.org", "eve@xa.org")]
    [True, True, False]
    >>> allowed("bob@a.org", verified=False, asked="@a.org")
    False
    """
    if asked.strip() == ANY:
        return True
    name = email.casefold().strip()
    known = [entry.strip().casefold() for entry in asked.split(",") if entry.strip()]
    domain = f"@{name.rpartition('@')[2]}"
    return verified and "@" in name and (name in known or domain in known)
