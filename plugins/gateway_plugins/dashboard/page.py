"""The page itself: its frame, which holds no data, and the files that fill it."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import NamedTuple

STATIC = Path(__file__).with_name("static")

KINDS: Mapping[str, str] = {
    ".mjs": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)

GUARDS: Mapping[str, str] = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
"""Headers of everything that the page is made of."""

NO_STORE: Mapping[str, str] = {**GUARDS, "cache-control": "no-store"}
"""Headers of what is for one viewer."""


class Section(NamedTuple):
    """A part of the page: its heading, and the scopes of which a viewer has to have one."""

    name: str
    title: str
    scopes: frozenset[str]


def files() -> dict[str, tuple[str, bytes]]:
    """Return the media type and the content of each file of the page, by its name."""
    found = (file for file in STATIC.iterdir() if file.suffix in KINDS)
    return {file.name: (KINDS[file.suffix], file.read_bytes()) for file in found}


def page(
    sections: Sequence[Section],
    *,
    form_token: str,
    who: str | None,
    refresh: float,
    scopes: frozenset[str] | None,
) -> str:
    """Return the page with these sections, for a viewer called `who`; None: nobody logs in.

    The page offers the actions that need one of `scopes`; None: all.
    """
    admin = scopes is None or "admin" in scopes
    links = "".join(f'<li><a href="#{one.name}">{escape(one.title)}</a></li>' for one in sections)
    bodies = "".join(_section(one, admin) for one in sections)
    logout = "" if who is None else _LOGOUT.substitute(token=form_token, who=escape(who))
    return _PAGE.substitute(
        token=form_token,
        links=links,
        sections=bodies,
        logout=logout,
        refresh=f"{refresh:g}",
        scopes="*" if scopes is None else escape(" ".join(sorted(scopes))),
    )


def login_page(problem: str | None = None) -> str:
    """Return the page that asks for a key, with what was wrong with the last one.

    Its links are relative: with a problem it is the answer to the form, one step below the page.
    """
    said = "" if problem is None else f'<p role="alert" class="bad">{escape(problem)}</p>'
    return _LOGIN.substitute(problem=said, up="" if problem is None else "../")


def _section(one: Section, admin: bool) -> str:
    actions = " data-admin" if admin else ""
    return (
        f'<section id="{one.name}" aria-labelledby="{one.name}-title">'
        f'<h2 id="{one.name}-title">{escape(one.title)}</h2>'
        f'<div class="view" data-view="{one.name}"{actions}>'
        '<p class="quiet">Loading</p></div></section>'
    )


def _template(name: str) -> Template:
    return Template((STATIC / name).read_text("utf-8"))


_PAGE = _template("page.html")
_LOGIN = _template("login.html")
_LOGOUT = Template(
    '<form method="post" action="dashboard/logout">'
    '<input type="hidden" name="token" value="$token">'
    "<span>$who</span> <button>Log out</button></form>"
)
