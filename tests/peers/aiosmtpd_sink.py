"""Takes mail with aiosmtpd and keeps each message as N.eml and N.json: aiosmtpd_sink.py PORT DIR [CERTIFICATE KEY [ADDRESS]]

With a certificate it takes mail inside TLS only, and offers REQUIRETLS there.
"""

import asyncio
import json
import pathlib
import ssl
import sys

from aiosmtpd.smtp import SMTP

port, directory = int(sys.argv[1]), pathlib.Path(sys.argv[2])
tls = None
if len(sys.argv) > 3:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(sys.argv[3], sys.argv[4])


class Session(SMTP):
    """Takes REQUIRETLS, which aiosmtpd does not know."""

    require_tls = False

    async def smtp_MAIL(self, arg):
        self.require_tls = bool(arg) and arg.endswith(" REQUIRETLS")
        await super().smtp_MAIL(arg.removesuffix(" REQUIRETLS") if arg else arg)


class Keeper:
    count = 0

    async def handle_EHLO(self, server, session, envelope, hostname, responses):
        session.host_name = hostname
        if session.ssl:
            responses.insert(len(responses) - 1, "250-REQUIRETLS")
        return responses

    async def handle_DATA(self, server, session, envelope):
        Keeper.count += 1
        facts = {
            "sender": envelope.mail_from,
            "recipients": envelope.rcpt_tos,
            "options": envelope.mail_options,
            "hello": session.host_name,
            "require_tls": server.require_tls,
        }
        (directory / f"{Keeper.count}.eml").write_bytes(envelope.original_content)
        # The facts come last and by a rename, so that who sees them sees all.
        unfinished = directory / f"{Keeper.count}.part"
        unfinished.write_text(json.dumps(facts))
        unfinished.rename(directory / f"{Keeper.count}.json")
        return "250 2.0.0 kept"


async def main():
    loop = asyncio.get_running_loop()

    def session():
        return Session(Keeper(), hostname="python.example.org", tls_context=tls, require_starttls=tls is not None)

    server = await loop.create_server(session, sys.argv[5] if len(sys.argv) > 5 else "127.0.0.1", port)
    await server.serve_forever()


asyncio.run(main())
