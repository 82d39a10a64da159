//! What the relay gives up once its sockets are bound: the rights of root, and the sight of files that it has no business with.
//!
//! On the main thread, before the spool is opened and before any other thread starts: what is made in the spool is the user's, and all
//! threads inherit what is left. Errors end the start; nothing is given up by half.

use std::ffi::CString;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access as _, AccessFs, Ruleset, RulesetAttr as _, RulesetCreatedAttr as _, RulesetError, RulesetStatus,
    path_beneath_rules,
};

use super::Failure;
use crate::config::Settings;

/// What is read of the system: names, authorities, users, time zones, the machine's disks.
const SYSTEM: [&str; 6] = ["/etc", "/run/systemd/resolve", "/usr", "/proc", "/sys", "/dev"];

/// Becomes a user of the system for good, with that user's groups.
pub fn become_user(name: &str) -> Result<(), Failure> {
    let failed = |what: &str| {
        let error = std::io::Error::last_os_error();
        Failure(format!("user = {name:?}: cannot {what}: {error}"))
    };
    let text = CString::new(name).map_err(|_| Failure(format!("user = {name:?}: is no name")))?;
    // SAFETY: the name ends in NUL; no other thread asks for users while the relay starts, so the record stays.
    let found = unsafe { libc::getpwnam(text.as_ptr()).as_ref() };
    let Some(found) = found else { return Err(Failure(format!("user = {name:?}: there is no such user"))) };
    let (uid, gid) = (found.pw_uid, found.pw_gid);
    // SAFETY: plain calls.
    unsafe {
        if libc::geteuid() == uid && libc::getegid() == gid {
            return Ok(());
        }
        if libc::initgroups(text.as_ptr(), gid) != 0 {
            return Err(failed("take its groups"));
        }
        if libc::setgid(gid) != 0 {
            return Err(failed("take its group"));
        }
        if libc::setuid(uid) != 0 {
            return Err(failed("become it"));
        }
        assert!(uid == 0 || libc::setuid(0) != 0, "the rights of root are gone for good");
    }
    Ok(())
}

/// From here on only the queue's directory can be written, and read only that, the system's directories, and those of the files
/// that the settings name, and of the configuration's own, so that a file may be replaced. Nothing can be executed.
pub fn confine(settings: &Settings, config: Option<&Path>) -> Result<(), Failure> {
    let failed = |what: &str, error: &dyn std::fmt::Display| Failure(format!("landlock = true: {what}: {error}"));
    let queue = &settings.queue.dir;
    std::fs::create_dir_all(queue).map_err(|error| failed(&queue.display().to_string(), &error))?;
    let status = restrict(queue, &folders_of_files(settings, config))
        .map_err(|error| failed("cannot confine the process", &error))?;
    match status {
        RulesetStatus::NotEnforced => {
            Err(failed("this kernel does not have it", &"set it to false, or boot with lsm=landlock"))
        }
        RulesetStatus::PartiallyEnforced | RulesetStatus::FullyEnforced => Ok(()),
    }
}

/// Where the files are that may be read again.
fn folders_of_files(settings: &Settings, config: Option<&Path>) -> Vec<PathBuf> {
    let tls = &settings.tls;
    let pair = tls.pair.iter().flat_map(|(certificate, key)| [certificate, key]);
    let auth = settings.auth.users.iter().chain(settings.auth.jwt.iter().map(|jwt| &jwt.key));
    let auth = auth.chain(settings.auth.kerberos.iter().map(|kerberos| &kerberos.keytab));
    let credentials = settings.route.next_hops.iter().filter_map(|hop| hop.credentials.as_deref());
    let keys = settings.dkim.keys.iter().map(|key| key.file.as_path());
    let files = pair.chain(&tls.client_roots).chain([&tls.roots]).chain(auth).chain(&settings.aliases.file);
    let folder = |file: &Path| match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    };
    files.map(PathBuf::as_path).chain(credentials).chain(keys).chain(config).map(folder).collect()
}

fn restrict(queue: &Path, read: &[PathBuf]) -> Result<RulesetStatus, RulesetError> {
    let abi = ABI::V3;
    let reading = AccessFs::ReadFile | AccessFs::ReadDir;
    let status = Ruleset::default()
        .handle_access(AccessFs::from_all(abi))?
        .create()?
        .add_rules(path_beneath_rules(SYSTEM, reading))?
        .add_rules(path_beneath_rules(read, reading))?
        .add_rules(path_beneath_rules([queue], AccessFs::from_all(abi) & !AccessFs::Execute))?
        .restrict_self()?;
    Ok(status.ruleset)
}
