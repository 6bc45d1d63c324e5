"""The activity log of a real server: it has every acknowledged write, whatever ends the server."""

import threading
import uuid
from pathlib import Path

import httpx

from .serving import Gallery

LOG = "providers/Microsoft.Insights/eventtypes/management/values?api-version=2015-04-01"
SINCE = "eventTimestamp ge '2020-01-01T00:00:00Z'"


def _recorded(gallery: Gallery, group: str) -> set[str]:
    found: set[str] = set()
    url = f"{LOG}&$filter={SINCE} and resourceGroupName eq '{group}' and status eq 'Succeeded'"
    while url:
        page = gallery.get(url)
        found |= {event["resourceId"].rsplit("/", 1)[1] for event in page["value"]}
        url = page.get("nextLink", "")
    return found


def test_every_acknowledged_write_is_in_the_log_after_kill_9(data: Path) -> None:
    gallery = Gallery(data)
    acknowledged: list[str] = []
    try:
        gallery.serve()
        gallery.put("resourceGroups/g", {"location": "westcentralus"})
        path = "resourceGroups/g/providers/Microsoft.Compute/galleries"

        def write(worker: int) -> None:
            for number in range(10_000):
                name = f"w{worker}.{number}"
                try:
                    if gallery.ask("PUT", f"{path}/{name}", {"location": "westcentralus"}).status_code != 201:
                        return
                except httpx.HTTPError:
                    return
                acknowledged.append(name)
                if len(acknowledged) >= 60:
                    killing.set()

        killing = threading.Event()
        workers = [threading.Thread(target=write, args=(number,)) for number in range(3)]
        for worker in workers:
            worker.start()
        assert killing.wait(60)
        gallery.kill()
        for worker in workers:
            worker.join()
        gallery.serve()
        recorded = _recorded(gallery, "g")
        assert set(acknowledged) <= recorded
        # And nothing that isn't there: what has an event has its resource.
        assert gallery.get(f"{path}/{sorted(recorded - {'g'})[-1]}")["name"]
    finally:
        gallery.end()


def test_refusals_are_in_the_log_after_an_orderly_end(data: Path) -> None:
    gallery = Gallery(data)
    try:
        gallery.serve()
        name = str(uuid.uuid4())
        url = f"{gallery.variables['GALLERY_ENDPOINT']}/{name}"
        assert httpx.get(url, verify=gallery.trust).status_code == 401
        assert gallery.terminate() == 0
        gallery.serve()
        path = f"/providers/Microsoft.Insights/eventtypes/management/values?api-version=2015-04-01&$filter={SINCE}"
        [event] = gallery.get(f"{path} and resourceId eq '/{name}'")["value"]
        assert event["httpRequest"]["clientIpAddress"] == "127.0.0.1"
    finally:
        gallery.end()
