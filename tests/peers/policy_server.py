"""A web server with MTA-STS policies: policy_server.py PORT DIR CERTIFICATE KEY

DIR/HOST has the answer for a host: a line with status and media type (or where a redirect leads), then the text. Each request becomes
a line in DIR/log.
"""

import http.server
import pathlib
import ssl
import sys
import threading

port, directory = int(sys.argv[1]), pathlib.Path(sys.argv[2])
tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
tls.load_cert_chain(sys.argv[3], sys.argv[4])
writing = threading.Lock()


class Handler(http.server.BaseHTTPRequestHandler):
    timeout = 30

    def setup(self):
        # Not in the thread that accepts: who only connects would keep all others waiting.
        self.request = tls.wrap_socket(self.request, server_side=True)
        super().setup()

    def do_GET(self):
        host = self.headers["Host"].split(":")[0]
        with writing, open(directory / "log", "a") as log:
            log.write(f"{host} {self.path}\n")
        answer = directory / host
        head, text = answer.read_text().split("\n", 1) if answer.exists() else ("404 text/plain", "")
        status, kind = head.split(" ", 1)
        self.send_response(int(status))
        self.send_header("Location" if status.startswith("3") else "Content-Type", kind)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, *_):
        pass


Server(("127.0.0.1", port), Handler).serve_forever()
