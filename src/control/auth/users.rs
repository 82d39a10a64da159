//! The file of users: a line each, `name verifier [senders]`; `#` begins a comment.
//!
//! A verifier is an argon2 hash in PHC form, a SCRAM one, an NT hash as crypt(3) writes it, or the word `kerberos` for users without a
//! password; which senders a user may use is a list with commas (AUT-06).
//! The file is read again when its time or size changes; if it is wrong then, the old one stays and the operator is told. Errors
//! name the line, never what stands in it (AUT-08). Checking a password costs milliseconds: never on a shard.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};

use super::ntlm::NtHash;
use super::scram;
use crate::base::limits::USER_NAME_MAX_BYTES;
use crate::smtp::auth::{Senders, User};

/// How a password is checked.
pub(super) enum Verifier {
    Argon2(Box<str>),
    Scram(scram::Verifier),
    Nt(NtHash),
    /// No password is the user's: a Kerberos ticket proves who it is.
    Kerberos,
}

/// What a user without a password has in a verifier's place.
const KERBEROS: &str = "kerberos";

impl Verifier {
    fn parse(text: &str) -> Option<Verifier> {
        if text == KERBEROS {
            Some(Verifier::Kerberos)
        } else if text.starts_with("$argon2") {
            PasswordHash::new(text).ok().map(|_| Verifier::Argon2(text.into()))
        } else if text.starts_with('$') {
            NtHash::parse(text).map(Verifier::Nt)
        } else {
            scram::Verifier::parse(text).map(Verifier::Scram)
        }
    }

    /// True if this is the password. Slow.
    pub(super) fn matches(&self, password: &[u8]) -> bool {
        match self {
            Verifier::Argon2(text) => {
                let hash = PasswordHash::new(text).expect("it was looked at when read");
                Argon2::default().verify_password(&prepared(password), &hash).is_ok()
            }
            Verifier::Scram(verifier) => verifier.matches(&prepared(password)),
            Verifier::Nt(hash) => hash.matches(password),
            Verifier::Kerberos => false,
        }
    }
}

/// One user.
pub(super) struct Entry {
    pub(super) user: Arc<User>,
    pub(super) verifier: Verifier,
}

/// The file's contents.
#[derive(Default)]
pub(super) struct Table {
    entries: HashMap<Box<str>, Arc<Entry>>,
    /// What is checked for users who are not there, so that it takes as long.
    first: Option<Arc<Entry>>,
}

impl Table {
    /// Reads the file's text; the error names the first wrong line.
    pub(super) fn parse(text: &str) -> Result<Table, String> {
        let mut table = Table::default();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let wrong = |what: &str| Err(format!("line {}: {what}", number + 1));
            let mut words = line.splitn(3, char::is_whitespace);
            let (name, verifier) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
            if name.len() > USER_NAME_MAX_BYTES {
                return wrong("the name is too long");
            }
            let Some(verifier) = Verifier::parse(verifier) else {
                return wrong("want a name, a verifier as `ringpost user add` makes it, and perhaps senders");
            };
            let senders = Senders::parse(words.next().unwrap_or(""));
            let entry = Arc::new(Entry { user: Arc::new(User { name: name.into(), senders }), verifier });
            table.first.get_or_insert_with(|| entry.clone());
            if table.entries.insert(name.into(), entry).is_some() {
                return wrong("the user stands there twice");
            }
        }
        Ok(table)
    }

    /// The user of that name.
    pub(super) fn find(&self, name: &str) -> Option<Arc<Entry>> {
        self.entries.get(name).cloned()
    }

    /// Somebody, to be like.
    pub(super) fn anybody(&self) -> Option<Arc<Entry>> {
        self.first.clone()
    }
}

/// The file, and what it held when it was last read.
pub(super) struct Users {
    path: PathBuf,
    loaded: Mutex<(Option<Stamp>, Arc<Table>)>,
}

type Stamp = (SystemTime, u64);

fn stamp(path: &Path) -> Option<Stamp> {
    let found = std::fs::metadata(path).ok()?;
    Some((found.modified().ok()?, found.len()))
}

fn read(path: &Path) -> Result<Table, String> {
    let named = |error: &dyn std::fmt::Display| format!("auth.users {}: {error}", path.display());
    let text = std::fs::read_to_string(path).map_err(|error| named(&error))?;
    Table::parse(&text).map_err(|error| named(&error))
}

impl Users {
    /// Reads the file.
    pub(super) fn open(path: &Path) -> Result<Users, String> {
        let stamp = stamp(path);
        let table = read(path)?;
        Ok(Users { path: path.to_owned(), loaded: Mutex::new((stamp, Arc::new(table))) })
    }

    /// What the file holds now; an error beside it says why it could not be read again.
    pub(super) fn table(&self) -> (Arc<Table>, Option<String>) {
        let now = stamp(&self.path);
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let mut trouble = None;
        if now != loaded.0 {
            // Said once for each change.
            loaded.0 = now;
            match read(&self.path) {
                Ok(table) => loaded.1 = Arc::new(table),
                Err(error) => trouble = Some(format!("{error}; the users known before stay")),
            }
        }
        (loaded.1.clone(), trouble)
    }
}

/// The password as both sides of an exchange hash it (RFC 4013); one that has no such form stays as it is.
fn prepared(password: &[u8]) -> zeroize::Zeroizing<Vec<u8>> {
    let text = str::from_utf8(password).ok().and_then(|text| stringprep::saslprep(text).ok());
    zeroize::Zeroizing::new(text.map_or_else(|| password.to_vec(), |text| text.as_bytes().to_vec()))
}

/// What to keep of a user's password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep<'a> {
    /// A SCRAM verifier of this one.
    Scram(&'a [u8]),
    /// An argon2 hash.
    Argon2(&'a [u8]),
    /// An NT hash, which is as good as the password for who has it.
    Nt(&'a [u8]),
    /// There is none: a Kerberos ticket proves who the user is.
    Nothing,
}

/// A line for the file. The error says what is wrong with the name or the password.
pub fn make_line(name: &str, keep: Keep<'_>, senders: &str) -> Result<String, String> {
    if crate::smtp::sasl::name(name.as_bytes()).is_none() || name.contains(char::is_whitespace) || name.starts_with('#')
    {
        return Err("a name must be without blanks and controls, and not begin with #".to_owned());
    }
    if let Keep::Scram(password) | Keep::Argon2(password) | Keep::Nt(password) = keep
        && (password.is_empty() || password.contains(&0))
    {
        return Err("the password must not be empty".to_owned());
    }
    let verifier = match keep {
        Keep::Argon2(password) => {
            let hash = Argon2::default().hash_password(&prepared(password));
            hash.map_err(|error| format!("argon2: {error}"))?.to_string()
        }
        Keep::Scram(password) => scram::Verifier::of_password(&prepared(password)).to_string(),
        Keep::Nt(password) => NtHash::of_password(password).ok_or("for NTLM the password must be UTF-8")?.to_string(),
        Keep::Nothing => KERBEROS.to_owned(),
    };
    let blank = if senders.is_empty() { "" } else { " " };
    Ok(format!("{name} {verifier}{blank}{senders}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_is_read_and_matches() {
        let mut file = String::from("# users\n\n");
        let password = "gehe\u{ad}im\u{2168}".as_bytes();
        for (name, keep) in [
            ("alice", Keep::Scram(password)),
            ("bob@example.org", Keep::Argon2(password)),
            ("carol", Keep::Nt(password)),
            ("dave", Keep::Nothing),
        ] {
            let line = make_line(name, keep, "a@example.org,@b.example").unwrap();
            assert!(!line.contains("geheim"), "{line}");
            file += &format!("{line}\n");
        }
        let table = Table::parse(&file).unwrap();
        // SASLprep: a soft hyphen is nothing, and the numeral is IX. NTLM takes passwords as they are.
        for (name, prepared, as_it_is) in
            [("alice", true, true), ("bob@example.org", true, true), ("carol", false, true), ("dave", false, false)]
        {
            let entry = table.find(name).unwrap();
            assert_eq!(entry.verifier.matches(b"geheimIX"), prepared, "{name}");
            assert_eq!(entry.verifier.matches(password), as_it_is, "{name}");
            assert!(
                !entry.verifier.matches(b"geheim") && !entry.verifier.matches(b"") && !entry.verifier.matches(b"\xff")
            );
            assert!(entry.user.senders.allow(b"x@b.example") && !entry.user.senders.allow(b"x@c.example"));
        }
        assert!(table.find("Alice").is_none());
        assert!(make_line("a b", Keep::Scram(b"x"), "").is_err() && make_line("a", Keep::Nt(b"\xff"), "").is_err());
        for keep in [Keep::Scram(b""), Keep::Argon2(b""), Keep::Nt(b"")] {
            assert!(make_line("a", keep, "").is_err(), "{keep:?}");
        }
    }

    #[test]
    fn a_wrong_line_is_named_and_not_shown() {
        // AUT-08
        let line = make_line("a", Keep::Scram(b"x"), "").unwrap();
        for (text, at) in [("alice geheim", "line 1"), ("\nalice", "line 2"), (&format!("{line}\n{line}"), "line 2")] {
            let error = Table::parse(text).err().unwrap();
            assert!(error.starts_with(at) && !error.contains("geheim"), "{error}");
        }
    }

    #[test]
    fn a_file_is_read_again_when_it_changes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("users");
        assert!(Users::open(&path).is_err());
        std::fs::write(&path, make_line("a", Keep::Scram(b"x"), "").unwrap()).unwrap();
        let users = Users::open(&path).unwrap();
        assert!(users.table().0.find("a").is_some());
        std::fs::write(&path, "nonsense").unwrap();
        let (table, trouble) = users.table();
        assert!(table.find("a").is_some() && trouble.unwrap().contains("line 1"));
        assert!(users.table().1.is_none(), "said once");
        std::fs::write(&path, make_line("bb", Keep::Scram(b"x"), "").unwrap()).unwrap();
        assert!(users.table().0.find("bb").is_some());
    }
}
