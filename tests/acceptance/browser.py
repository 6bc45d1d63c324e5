"""A browser without a screen: it loads the pages of the gallery, fills in their forms and sends them.

It keeps cookies and tells where a form comes from, as browsers do. Run as a program, it is what az and
the SDKs open: `browser.py URL` signs in on the page at URL, `browser.py URL CODE` with a device's code,
with USERNAME and PASSWORD of the environment.
"""

import os
import ssl
import sys
from dataclasses import dataclass, field
from html.parser import HTMLParser
from urllib.parse import urljoin, urlsplit

import httpx


@dataclass
class Form:
    """A form of a page: where it goes, its fields as the page fills them, its buttons."""

    action: str
    fields: dict[str, str] = field(default_factory=dict)


class _Forms(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.forms: list[Form] = []
        self.scripts = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.forms.append(Form(values.get("action", "")))
        elif tag == "input":
            self.forms[-1].fields[values["name"]] = values.get("value", "")
        elif tag == "script":
            self.scripts += 1


class Browser:
    """Shows one page at a time: `response`."""

    def __init__(self, ca_file: str) -> None:
        context = ssl.create_default_context(cafile=ca_file)
        self.client = httpx.Client(verify=context, timeout=30)
        self.response: httpx.Response | None = None

    def open(self, url: str) -> None:
        """Go to a page."""
        self.response = self.client.get(url, headers={"sec-fetch-site": "none"})

    def submit(self, **values: str) -> None:
        """Send the page's form with `values` in its fields, and follow where it leads."""
        assert self.response is not None
        page = _Forms()
        page.feed(self.response.text)
        assert page.scripts == 0
        assert len(page.forms) == 1, self.response.text
        form = page.forms[0]
        here, target = str(self.response.url), urljoin(str(self.response.url), form.action)
        is_same = urlsplit(here)[:2] == urlsplit(target)[:2]
        headers = {"origin": "null", "sec-fetch-site": "same-origin" if is_same else "same-site"}
        self.response = self.client.post(target, data={**form.fields, **values}, headers=headers)
        if self.response.is_redirect:
            self.response = self.client.get(urljoin(target, self.response.headers["location"]))

    def sign_in(self, username: str, password: str) -> None:
        """Fill in the page that asks for name and password; go on to the program that asked."""
        self.submit(username=username, password=password, action="continue")
        assert self.response is not None
        if 'id="username"' not in self.response.text and "<form" in self.response.text:
            self.submit()  # the page that hands the answer over


def main() -> None:
    """Sign in as a user would in the window that a program opened."""
    browser = Browser(os.environ["REQUESTS_CA_BUNDLE"])
    browser.open(sys.argv[1])
    if len(sys.argv) > 2:
        browser.submit(user_code=sys.argv[2])
    browser.sign_in(os.environ["USERNAME"], os.environ["PASSWORD"])
    assert browser.response is not None
    assert browser.response.status_code == 200, browser.response.text


if __name__ == "__main__":
    main()
