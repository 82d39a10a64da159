// Submits two messages as alice: nodemailer_submit.js STARTTLS_PORT TLS_PORT PASSWORD.

const nodemailer = require("/usr/share/nodejs/nodemailer");

const [starttls, tls, password] = process.argv.slice(2);
const usual = { host: "127.0.0.1", name: "nodemailer.example.com", tls: { rejectUnauthorized: false } };
const message = { from: "alice@example.com", to: "to@example.org", text: "t\u00e4xt\n.\n..\n" };

async function submit(subject, options) {
  const wrong = nodemailer.createTransport({ ...usual, ...options, auth: { user: "alice", pass: "not " + password } });
  const refused = await wrong.sendMail({ ...message, subject }).then(() => null, (error) => error);
  if (refused === null || refused.code !== "EAUTH" || refused.responseCode !== 535) {
    throw new Error(`a wrong password: ${refused}`);
  }
  const right = nodemailer.createTransport({ ...usual, ...options, auth: { user: "alice", pass: password } });
  const { accepted } = await right.sendMail({ ...message, subject });
  if (accepted.length !== 1) {
    throw new Error(`accepted: ${accepted}`);
  }
}

async function main() {
  await submit("nodemailer starttls", { port: Number(starttls), requireTLS: true, authMethod: "PLAIN" });
  await submit("nodemailer tls", { port: Number(tls), secure: true, authMethod: "LOGIN" });
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
