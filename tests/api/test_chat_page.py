"""The chat page is served as it was built, with a policy that lets nothing from outside in."""

import re

import pytest

from tests.tools.server import Api

pytestmark = pytest.mark.anyio


async def test_the_page_and_its_assets_are_served(api: Api) -> None:
    """Every file that the document names is there, with its media type; assets may be kept for ever."""
    page = await api.http.get(f"{api.url}/")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    named = re.findall(r'(?:src|href)="\./([^"]+)"', page.text)
    assert len(named) >= 3
    for path in named:
        asset = await api.http.get(f"{api.url}/{path}")
        assert asset.status_code == 200, path
        if path.startswith("assets/"):
            assert "immutable" in asset.headers["cache-control"]
    assert "http://" not in page.text
    assert "https://" not in page.text


async def test_the_page_lets_nothing_from_outside_in(api: Api) -> None:
    """A strict Content-Security-Policy, and no way into a frame."""
    headers = (await api.http.get(f"{api.url}/")).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "unsafe" not in policy
    assert "require-trusted-types-for 'script'" in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "path", ["/assets/../index.html", "/assets/%2e%2e/%2e%2e/app.py", "/assets/", "/assets/nothing.js"]
)
async def test_no_other_file_can_be_had(api: Api, path: str) -> None:
    """Whatever the path says, only built assets are served, and the rest is a problem document."""
    response = await api.http.get(f"{api.url}{path}")
    assert response.status_code == 404
    assert response.headers["content-type"] == "application/problem+json"
