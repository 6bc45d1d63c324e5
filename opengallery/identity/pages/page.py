"""Pages out of templates: every value is escaped, and the headers let nothing in but what the page holds."""

import base64
import hashlib
from functools import cache
from html import escape
from pathlib import Path
from string import Template

from starlette.responses import HTMLResponse

FOLDER = Path(__file__).parent


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def page(
    title: str,
    template: str,
    *,
    notice: str = "",
    status: int = 200,
    form_targets: tuple[str, ...] = (),
    **values: str,
) -> HTMLResponse:
    """The page made of a template of this folder; `values` that are no `Html` are escaped.

    `form_targets` are origins that the page's form may lead to, besides this server.
    """
    shown = Html(f'<p class="notice" role="alert">{escape(notice)}</p>') if notice else Html("")
    content = _template(template).substitute({name: _escaped(value) for name, value in values.items()})
    text = _template("frame").substitute(title=escape(title), style=_style(), notice=shown, content=content)
    return HTMLResponse(text, status_code=status, headers=security_headers(form_targets))


def message_page(title: str, message: str, *, is_alarm: bool = False, status: int = 200) -> HTMLResponse:
    """A page that only says something."""
    if is_alarm:
        return page(title, "message", notice=message, message="", status=status)
    return page(title, "message", message=message, status=status)


def security_headers(form_targets: tuple[str, ...] = ()) -> dict[str, str]:
    """No script, no frame, no foreign content, no copy in a cache."""
    digest = base64.b64encode(hashlib.sha256(_style().encode()).digest()).decode()
    policy = (
        "default-src 'none'",
        f"style-src 'sha256-{digest}'",
        # Browsers apply it to the redirect that answers the form, too.
        "form-action " + " ".join(("'self'", *form_targets)),
        "frame-ancestors 'none'",
        "base-uri 'none'",
    )
    return {
        "content-security-policy": "; ".join(policy),
        "x-frame-options": "DENY",
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cross-origin-opener-policy": "same-origin",
        "cache-control": "no-store",
        "pragma": "no-cache",
    }


@cache
def _template(name: str) -> Template:
    return Template((FOLDER / f"{name}.html").read_text(encoding="utf-8"))


@cache
def _style() -> str:
    return (FOLDER / "style.css").read_text(encoding="utf-8")


def _escaped(value: str) -> str:
    return value if isinstance(value, Html) else escape(value)
