"""Injects COUNT messages on a few connections and prints the numbers of those that were answered 202: http_load.py PORT COUNT."""

import http.client
import sys
import threading

PORT, COUNT = int(sys.argv[1]), int(sys.argv[2])
taken = []


def send(numbers):
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=60)
    for number in numbers:
        body = f"Subject: number {number}\r\n\r\nbody\r\n"
        path = f"/v1/messages?from=a@example.com&to=u{number}@example.org"
        connection.request("POST", path, body, {"Content-Type": "message/rfc822"})
        answer = connection.getresponse()
        answer.read()
        if answer.status == 202:
            taken.append(number)


threads = [threading.Thread(target=send, args=(range(first, COUNT, 8),)) for first in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(*taken)
