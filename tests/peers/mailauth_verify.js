// Verifies every DKIM signature of messages with mailauth: FILE of `name text` lines for DNS, then the messages.
// Prints one line for each message: its file, how many signatures it has, and how many of them hold.
const fs = require('fs');
const path = require('path');
const { dkimVerify } = require(path.join(__dirname, '../../target/test-node/node_modules/mailauth/lib/dkim/verify'));

const [records, ...paths] = process.argv.slice(2);
const zone = new Map(fs.readFileSync(records, 'utf8').trimEnd().split('\n').map(line => {
    const at = line.indexOf(' ');
    return [line.slice(0, at), line.slice(at + 1)];
}));

async function resolver(name, type) {
    const text = zone.get(name.replace(/\.$/, ''));
    if (type !== 'TXT' || !text) {
        throw Object.assign(new Error(`no ${type} for ${name}`), { code: 'ENOTFOUND' });
    }
    return [text.match(/.{1,255}/g)];
}

(async () => {
    for (const file of paths) {
        const { results } = await dkimVerify(fs.readFileSync(file), { resolver, minBitLength: 1024 });
        const signatures = results.filter(result => result.status.result !== 'none');
        const good = signatures.filter(result => result.status.result === 'pass');
        for (const bad of signatures.filter(result => !good.includes(result))) {
            console.error(`${file}: ${JSON.stringify(bad.status)}`);
        }
        console.log(file, signatures.length, good.length);
    }
})();
