"""The listener: Granian, in this process, with TLS; and what it does about certificates and token keys.

Granian reads its certificate when a listener starts. To show another one, the listener is started anew beside the
old one, on the same port (SO_REUSEPORT); the old one takes no more connections, and ends with those that it has.
Nothing else of the process is touched: machines, replica servers and workflows go on.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress

import structlog
from granian.constants import Interfaces, SSLProtocols
from granian.http import HTTP1Settings, HTTP2Settings
from granian.log import LogLevels
from granian.server.embed import Server

from opengallery.identity import keys
from opengallery.identity.certificate_source import CertificateSource, ShownCertificate
from opengallery.identity.folder import IdentityFolder
from opengallery.listener.guarded import Application, Guarded
from opengallery.settings import Settings, SettingsError

ADDRESS = "127.0.0.1"
LOOK_S = 2.0
TEND_KEYS_S = 3600.0
HEADER_TIME_MAX_S = 15
HEADER_SIZE_MAX_BYTES = 64 * 1024
BUFFER_MAX_BYTES = 128 * 1024  # of HTTP/1.1, for a head too; with less, uploads are slower
STREAMS_MAX = 100
STOP_S = 5.0
DAY_S = 24 * 3600

log = structlog.get_logger()


class Listener:
    """Serves one application under the settings' port."""

    def __init__(
        self,
        application: Application,
        settings: Settings,
        source: CertificateSource | None = None,
        look_s: float = LOOK_S,
    ) -> None:
        """Serve `application`; look for another certificate every `look_s`. Raises `SettingsError`."""
        self._settings = settings
        self._source = source or CertificateSource(settings)
        self._look_s = look_s
        shown = self._source.first()
        self._server = Server(
            Guarded(application, settings.endpoint),
            address=ADDRESS,
            port=settings.port,
            interface=Interfaces.ASGINL,
            websockets=False,
            http1_settings=HTTP1Settings(
                header_read_timeout=HEADER_TIME_MAX_S * 1000, max_buffer_size=BUFFER_MAX_BYTES
            ),
            http2_settings=HTTP2Settings(
                max_headers_size=HEADER_SIZE_MAX_BYTES,
                max_concurrent_streams=STREAMS_MAX,
                keep_alive_interval=30,
            ),
            ssl_cert=shown.certificate,
            ssl_key=shown.key,
            ssl_protocol_min=SSLProtocols.tls12,
            log_level=LogLevels.error,
            log_dictconfig={"handlers": {}, "loggers": {"_granian": {"propagate": True}}},
        )

    async def run(self, ended: asyncio.Event, ready: Callable[[], None]) -> bool:
        """Serve until `ended` is set; call `ready` once it answers. Returns whether it ended in order.

        Raises `SettingsError` when the port can't be had.
        """
        serving = asyncio.create_task(self._server.serve())
        await _until_listening(self._settings.port, serving)
        ready()
        following = asyncio.create_task(self._follow())
        await asyncio.wait({asyncio.create_task(ended.wait()), serving}, return_when=asyncio.FIRST_COMPLETED)
        following.cancel()
        with suppress(asyncio.CancelledError):
            await following
        self._server.stop()  # type: ignore[no-untyped-call]
        await asyncio.wait({serving}, timeout=STOP_S)
        return ended.is_set()

    async def _follow(self) -> None:
        """Show another certificate when there is one; renew the keys of tokens when they are old."""
        tend_at = time.monotonic()
        while True:
            await asyncio.sleep(self._look_s)
            try:
                shown = await asyncio.to_thread(self._source.renewed)
                if shown is not None:
                    self._show(shown)
                if time.monotonic() >= tend_at:
                    tend_at = time.monotonic() + TEND_KEYS_S
                    await asyncio.to_thread(self._tend_keys)
            except Exception:  # the next look may do better: the server serves on
                log.exception("certificates and keys can't be looked after")

    def _show(self, shown: ShownCertificate) -> None:
        self._server.build_ssl_context(
            shown.certificate, shown.key, None, SSLProtocols.tls12, None, [], False
        )
        self._server.reload()  # type: ignore[no-untyped-call]

    def _tend_keys(self) -> None:
        folder = IdentityFolder(self._settings.data)
        if made := keys.tend(folder, self._settings.identity.token_key_days * DAY_S):
            log.info("a new key signs access tokens", key_id=made)


async def _until_listening(port: int, serving: "asyncio.Task[None]") -> None:
    """Return once the port answers. Raises `SettingsError` when it can't be had."""
    while True:
        if serving.done():
            raise SettingsError(
                f"Can't listen on port {port}: {serving.exception()}. Choose another by --port."
            )
        try:
            _, writer = await asyncio.open_connection(ADDRESS, port)
        except OSError:
            await asyncio.sleep(0.02)
            continue
        writer.close()
        return
