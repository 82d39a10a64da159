//! What the relay gives up once its sockets are bound: the rights of root.
//!
//! On the main thread, before the spool is opened: what is made there is the user's. The C library changes all threads at once.
//! Errors end the start; nothing is given up by half.

use std::ffi::CString;

use super::Failure;

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
