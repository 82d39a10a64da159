"""A web server with MTA-STS policies: policy_server.py PORT DIR CERTIFICATE KEY

DIR/HOST has the answer for a host: a line with status and media type (or where a redirect leads), then the text. Each request becomes
a line in DIR/log. What is posted is kept as DIR/NUMBER.post, with its media type in the log, and answered with 201 unless DIR/HOST says
otherwise; DIR/HOST.busy has the next one answered with 503.
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

    def do_POST(self):
        host = self.headers["Host"].split(":")[0]
        text = self.rfile.read(int(self.headers["Content-Length"]))
        busy, answer = directory / f"{host}.busy", directory / host
        if busy.exists():
            busy.unlink()
            head = "503 busy"
        else:
            head = answer.read_text().split("\n", 1)[0] if answer.exists() else "201 taken"
        status, where = head.split(" ", 1)
        with writing:
            number = len(list(directory.glob("*.post"))) + 1
            if status == "201":
                unfinished = directory / "posting"
                unfinished.write_bytes(text)
                unfinished.rename(directory / f"{number}.post")
            with open(directory / "log", "a") as log:
                log.write(f"{host} {self.path} {status} {self.headers['Content-Type']}\n")
        self.send_response(int(status))
        if status.startswith("3"):
            self.send_header("Location", where)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, *_):
        pass


Server(("127.0.0.1", port), Handler).serve_forever()
