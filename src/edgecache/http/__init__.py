"""HTTP/1.1: the data plane, and the doors on it. It needs the extra `serve`.

app = HttpApp()
mount_cache_api(app, store, statistics=lambda: server.statistics)
server = HttpServer(app)
await server.start([Listener(host="127.0.0.1", port=8080)])
"""

from edgecache.http.app import HttpApp
from edgecache.http.cache_api import TokenRule, mount_cache_api
from edgecache.http.failures import ClientGoneError, RequestError
from edgecache.http.limits import HttpLimits
from edgecache.http.request import BodyReader, Request
from edgecache.http.response import FileRange, Response
from edgecache.http.server import HttpServer, Listener, activated_sockets
from edgecache.http.statistics import HttpStatistics
from edgecache.http.tls import TlsFiles

__all__ = [
    "BodyReader",
    "ClientGoneError",
    "FileRange",
    "HttpApp",
    "HttpLimits",
    "HttpServer",
    "HttpStatistics",
    "Listener",
    "Request",
    "RequestError",
    "Response",
    "TlsFiles",
    "TokenRule",
    "activated_sockets",
    "mount_cache_api",
]
