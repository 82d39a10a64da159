"""Injects in every way a client may or should not: http_client.py PORT. Prints how many messages must arrive."""

import http.client
import json
import socket
import sys
import threading

PORT = int(sys.argv[1])
expected = 0


def post(body, kind="application/json", path="/v1/messages", **fields):
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=60)
    if not isinstance(body, (str, bytes)):
        body = json.dumps(body)
    fields = {name.replace("_", "-"): value for name, value in fields.items()}
    connection.request("POST", path, body, {"Content-Type": kind, **fields})
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


def taken(status, answer):
    """Counts recipients, as each has a transaction of its own at the sink."""
    global expected
    assert status in (202, 207), (status, answer)
    count = sum(len(message["to"]) for message in answer["messages"] if "id" in message)
    expected += count
    return count


def refused(wanted, status, answer):
    assert status == wanted and answer["status"] == wanted and answer["error"], (wanted, status, answer)
    return answer


LETTER = {"from": "a@example.com", "to": "b@example.org", "text": "x"}

# One and many recipients, blind ones too.
taken(*post(LETTER))
assert taken(*post({**LETTER, "to": ["b@example.org", "Cy <c@example.org>"], "bcc": "d@example.org"})) == 3

# A batch: each recipient has a message of its own.
people = [{"address": f"p{n}@example.org", "substitutions": {"name": f"Nr {n}"}} for n in range(200)]
batch = {"from": "a@example.com", "to": people, "subject": "For {{ name }}", "text": "Dear {{ name }}\n"}
status, answer = post(batch)
assert status == 202 and len({message["id"] for message in answer["messages"]}) == 200
taken(status, answer)

# One wrong recipient of a batch is told apart.
people[7]["address"] = "wrong"
del people[9]["substitutions"]
status, answer = post(batch)
assert status == 207, status
problems = [message for message in answer["messages"] if "error" in message]
assert [problem["to"] for problem in problems] == [["wrong"], ["p9@example.org"]], problems
assert taken(status, answer) == 198

# An idempotency key makes one message, however often and at once it is used.
answers = []
threads = [
    threading.Thread(target=lambda: answers.append(post({**LETTER, "subject": "once"}, Idempotency_Key="k1")))
    for _ in range(12)
]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
answers.append(post({**LETTER, "subject": "once"}, Idempotency_Key="k1"))
good = [answer for status, answer in answers if status == 202]
assert {status for status, _ in answers} <= {202, 409} and len({str(answer) for answer in good}) == 1, answers
taken(202, good[0])
refused(422, *post({**LETTER, "subject": "another"}, Idempotency_Key="k1"))
refused(422, *post({**LETTER, "to": "wrong"}, Idempotency_Key="k2"))
taken(*post(LETTER, Idempotency_Key="k2"))
refused(422, *post(LETTER, Idempotency_Key="k" * 300))

# The rules for texts are those of SMTP.
RAW = "/v1/messages?from=a@example.com&to=b@example.org"
for text, reply in [
    (b"bare\nline feed\r\n", "550 5.6.11"),
    (b"x" * 1000 + b"\r\n", "500 5.6.0"),
    (b"Received: x\r\n" * 101 + b"\r\n", "554 5.4.6"),
]:
    assert refused(422, *post(text, "message/rfc822", RAW))["reply"].startswith(reply), text
taken(*post("Subject: 8\r\n\r\n8-bit: Käse\r\n".encode(), "message/rfc822", RAW))
taken(*post(b"line of text\r\n" * 70_000, "message/rfc822", RAW))
# Far more than is read before the answer is known; the answer is heard all the same.
assert refused(413, *post(b"line of text\r\n" * 800_000, "message/rfc822", RAW))["reply"].startswith("552 5.3.4")
refused(422, *post({**LETTER, "to": [f"u{n}@example.org" for n in range(1001)]}))

# What makes no sense.
refused(400, *post("nonsense"))
refused(400, *post({**LETTER, "odd": 1}))
refused(415, *post("x", "text/plain"))
refused(422, *post({**LETTER, "to": []}))
refused(422, *post(b"x\r\n", "message/rfc822"))

# A body in chunks, of unknown length; and one that breaks off, which is no message.
connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=60)
pieces = (f"line {n}\r\n".encode() for n in range(1000))
connection.request("POST", RAW, pieces, {"Content-Type": "message/rfc822"}, encode_chunked=True)
answer = connection.getresponse()
taken(answer.status, json.loads(answer.read()))
broken = socket.create_connection(("127.0.0.1", PORT))
broken.sendall(b"POST " + RAW.encode() + b" HTTP/1.1\r\nHost: x\r\nContent-Type: message/rfc822\r\nContent-Length: 99\r\n\r\nhalf")
broken.close()
garbage = socket.create_connection(("127.0.0.1", PORT))
garbage.sendall(b"\0\1\2\r\n\r\n")
assert garbage.recv(100).startswith(b"HTTP/1.1 400")

print(expected)
