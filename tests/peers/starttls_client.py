"""Goes inside TLS in every way a client may or should not: starttls_client.py PORT. Leaves two messages."""

import smtplib
import socket
import ssl
import sys

PORT = int(sys.argv[1])


def context(newest=None):
    made = ssl.create_default_context()
    made.check_hostname, made.verify_mode = False, ssl.CERT_NONE
    if newest:
        made.maximum_version = newest
    return made


def session(tls=None):
    smtp = smtplib.SMTP("127.0.0.1", PORT, local_hostname="before.example.com", timeout=20)
    smtp.ehlo()
    assert smtp.has_extn("starttls")
    smtp.starttls(context=tls or context())
    smtp.local_hostname = "inside.example.com"
    smtp.ehlo()
    assert not smtp.has_extn("starttls")
    return smtp


def raw(*commands):
    """A socket on which the last command was answered, in clear."""
    sock = socket.create_connection(("127.0.0.1", PORT), timeout=20)
    sock.recv(1000)
    sock.sendall(b"".join(command + b"\r\n" for command in commands))
    answer = b""
    while b"220 2.0.0" not in answer:
        answer += sock.recv(1000)
    return sock


def rest(sock):
    """All that comes until the other side ends, in whatever way."""
    got = b""
    try:
        while piece := sock.recv(1000):
            got += piece
    except OSError:
        pass
    return got


# Both versions deliver.
for newest in (ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2):
    smtp = session(context(newest))
    assert smtp.sock.version() == newest.name.replace("_", "."), smtp.sock.version()
    body = f"Subject: {newest.name}\r\n\r\n" + "text\r\n.dot\r\n" * 20_000
    assert not smtp.sendmail("tls@example.com", ["to@example.org"], body)
    smtp.quit()

# Commands injected behind STARTTLS are not answered inside TLS, and the session goes on (TLS-02).
inside = context().wrap_socket(raw(b"EHLO x", b"STARTTLS", b"RSET", b"NOOP"))
inside.settimeout(0.5)
try:
    raise AssertionError(inside.recv(1000))
except TimeoutError:
    pass
inside.settimeout(20)
inside.sendall(b"VRFY x\r\n")
assert inside.recv(1000).startswith(b"252")
inside.close()

# What is no handshake ends the connection, and is not answered (TLS-04).
sock = raw(b"STARTTLS")
sock.sendall(b"NOOP\r\nNOOP\r\n")
assert b"250" not in rest(sock)

# Messages cut off, or ended in clear, are no messages (TLS-12).
for last in (None, b"\r\n.\r\n"):
    smtp = session()
    smtp.mail("cut@example.com")
    smtp.rcpt("to@example.org")
    assert smtp.docmd("DATA")[0] == 354
    smtp.sock.sendall(b"Subject: cut\r\n\r\nhalf")
    plain = socket.socket(fileno=smtp.sock.detach())
    plain.settimeout(20)
    if last:
        plain.sendall(last)
    plain.shutdown(socket.SHUT_WR)
    assert b"250" not in rest(plain)
    smtp.sock = smtp.file = None

# The relay ends with close_notify; without it the last read would fail.
smtp = session()
smtp.sock.suppress_ragged_eofs = False
smtp.sock.sendall(b"QUIT\r\n")
ended = b""
while piece := smtp.sock.recv(100):
    ended += piece
assert ended.startswith(b"221"), ended
smtp.close()

# Sessions resume.
tls = context()
first = session(tls)
earlier = first.sock.session
first.quit()
again = tls.wrap_socket(raw(b"STARTTLS"), session=earlier)
assert again.session_reused
again.close()

# Everything byte by byte.
sock = raw(b"STARTTLS")
sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
talk = context().wrap_bio(incoming, outgoing)


def pump(step):
    while True:
        try:
            return step()
        except ssl.SSLWantReadError:
            for byte in outgoing.read():
                sock.sendall(bytes([byte]))
            incoming.write(sock.recv(7))


pump(talk.do_handshake)
talk.write(b"NOOP\r\n")
assert pump(lambda: talk.read(100)).startswith(b"250")
sock.close()
