//! The system's GSSAPI: Kerberos tickets, alone or inside SPNEGO, judged by the library that the system keeps up to date.
//!
//! MIT's library is loaded when a keytab is configured, and not before: nobody else needs it, not even to build. Its functions are
//! those of RFC 2744 and, to name a keytab and to hold SPNEGO to Kerberos, two extensions that MIT has had since 1.11. Calls read the
//! keytab and write the file of replays: they block, and belong on a thread that may. All that is unsafe in `control/` is here; a
//! pointer that the library gives is released by whoever holds it. An error is the library's text, for the operator alone.

use std::ffi::{CString, c_char, c_int, c_void};
use std::ptr::{null, null_mut};
use std::sync::{Arc, OnceLock};

use libloading::Library;

use crate::base::limits::GSSAPI_TEXT_MAX_BYTES;
use crate::config::KerberosSettings;

/// MIT's library, by the version of its interface.
const LIBRARY: &str = "libgssapi_krb5.so.2";

/// 1.2.840.113554.1.2.2, RFC 4121.
const KERBEROS: &[u8] = b"\x2a\x86\x48\x86\xf7\x12\x01\x02\x02";
/// 1.3.6.1.5.5.2, RFC 4178.
const SPNEGO: &[u8] = b"\x2b\x06\x01\x05\x05\x02";
/// 1.2.840.113554.1.2.2.1: a name in the form of Kerberos, RFC 1964 2.1.1.
const PRINCIPAL_NAME: &[u8] = b"\x2a\x86\x48\x86\xf7\x12\x01\x02\x02\x01";

// RFC 2744, appendix A.
const COMPLETE: u32 = 0;
const CONTINUE_NEEDED: u32 = 1;
const ERRORS: u32 = 0xffff_0000;
const NO_CREDENTIALS: u32 = 7 << 16;
const ACCEPT: c_int = 2;
const INDEFINITE: u32 = u32::MAX;
const MAJOR_STATUS: c_int = 1;
const MINOR_STATUS: c_int = 2;
const ANONYMOUS: u32 = 64;

type Handle = *mut c_void;

#[repr(C)]
struct Buffer {
    length: usize,
    value: *mut c_void,
}

impl Buffer {
    const EMPTY: Buffer = Buffer { length: 0, value: null_mut() };

    /// What the library only reads, for as long as the bytes are there.
    fn of(bytes: &[u8]) -> Buffer {
        Buffer { length: bytes.len(), value: bytes.as_ptr().cast_mut().cast() }
    }
}

#[repr(C)]
struct Oid {
    length: u32,
    elements: *const c_void,
}

impl Oid {
    fn of(elements: &'static [u8]) -> Oid {
        Oid { length: u32::try_from(elements.len()).expect("an OID is short"), elements: elements.as_ptr().cast() }
    }
}

#[repr(C)]
struct OidSet {
    count: usize,
    elements: *const Oid,
}

#[repr(C)]
struct Bindings {
    initiator_kind: u32,
    initiator: Buffer,
    acceptor_kind: u32,
    acceptor: Buffer,
    data: Buffer,
}

#[repr(C)]
struct KeyValue {
    key: *const c_char,
    value: *const c_char,
}

#[repr(C)]
struct KeyValues {
    count: u32,
    elements: *const KeyValue,
}

/// Declares the functions that are used, and loads them.
macro_rules! functions {
    ($($name:ident: fn($($argument:ty),*);)*) => {
        struct Functions {
            $($name: unsafe extern "C" fn(*mut u32, $($argument),*) -> u32,)*
            /// Stays loaded for good: what it registered with the system points into it.
            _library: Library,
        }

        impl Functions {
            fn load() -> Result<Functions, String> {
                let named = |error: libloading::Error| format!("{error}; install MIT Kerberos (libgssapi-krb5-2)");
                // SAFETY: the system's own library; what it does when loaded is meant to be done in any program.
                let library = unsafe { Library::new(LIBRARY) }.map_err(named)?;
                // SAFETY: the types are those that RFC 2744 and gssapi_ext.h declare for these names.
                unsafe {
                    Ok(Functions {
                        $($name: *library.get(concat!("gss_", stringify!($name))).map_err(named)?,)*
                        _library: library,
                    })
                }
            }
        }
    };
}

functions! {
    import_name: fn(*const Buffer, *const Oid, *mut Handle);
    acquire_cred_from: fn(Handle, u32, *const OidSet, c_int, *const KeyValues, *mut Handle, *mut Handle, *mut u32);
    set_neg_mechs: fn(Handle, *const OidSet);
    accept_sec_context: fn(
        *mut Handle, Handle, *const Buffer, *const Bindings, *mut Handle, *mut *const Oid, *mut Buffer, *mut u32, *mut u32, *mut Handle
    );
    wrap: fn(Handle, c_int, u32, *const Buffer, *mut c_int, *mut Buffer);
    unwrap: fn(Handle, *const Buffer, *mut Buffer, *mut c_int, *mut u32);
    display_name: fn(Handle, *mut Buffer, *mut *const Oid);
    display_status: fn(u32, c_int, *const Oid, *mut u32, *mut Buffer);
    release_buffer: fn(*mut Buffer);
    release_name: fn(*mut Handle);
    release_cred: fn(*mut Handle);
    delete_sec_context: fn(*mut Handle, *mut Buffer);
}

impl Functions {
    /// The library, loaded by whoever asks first.
    fn get() -> Result<&'static Functions, String> {
        static LOADED: OnceLock<Result<Functions, String>> = OnceLock::new();
        LOADED.get_or_init(Functions::load).as_ref().map_err(String::clone)
    }

    /// What a buffer of the library holds; it is given back.
    fn taken(&self, mut buffer: Buffer) -> Vec<u8> {
        if buffer.value.is_null() {
            return Vec::new();
        }
        // SAFETY: the library filled the buffer in, and nobody else has it.
        let bytes = unsafe { std::slice::from_raw_parts(buffer.value.cast::<u8>(), buffer.length) }.to_vec();
        let mut minor = 0;
        // SAFETY: as above; it is not used again.
        unsafe { (self.release_buffer)(&mut minor, &mut buffer) };
        bytes
    }

    /// What went wrong, in the library's words: first what kind of thing, then what in particular.
    fn error(&self, major: u32, minor: u32) -> String {
        let text = format!("{}; {}", self.status(major, MAJOR_STATUS), self.status(minor, MINOR_STATUS));
        // Names that a peer chose may be a part of it.
        let mut text: String = text.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
        text.truncate(text.floor_char_boundary(GSSAPI_TEXT_MAX_BYTES));
        text
    }

    fn status(&self, code: u32, kind: c_int) -> String {
        let kerberos = Oid::of(KERBEROS);
        let mechanism = if kind == MINOR_STATUS { &raw const kerberos } else { null() };
        let (mut minor, mut more, mut buffer) = (0, 0, Buffer::EMPTY);
        // SAFETY: all pointers are to places of this frame.
        unsafe { (self.display_status)(&mut minor, code, kind, mechanism, &mut more, &mut buffer) };
        String::from_utf8_lossy(&self.taken(buffer)).into_owned()
    }
}

/// Which tokens are exchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tokens {
    /// Those of Kerberos.
    Kerberos,
    /// Those of SPNEGO, and in them those of Kerberos.
    Negotiated,
}

/// What we prove and check with: the keys of a keytab.
pub(super) struct Acceptor {
    kerberos: Credential,
    negotiated: Credential,
}

impl Acceptor {
    /// Opens the keytab. The error names it.
    pub(super) fn open(settings: &KerberosSettings) -> Result<Acceptor, String> {
        let named = |error: String| format!("auth.kerberos_keytab {}: {error}", settings.keytab.display());
        let functions = Functions::get().map_err(named)?;
        let kerberos = Credential::acquire(functions, settings, KERBEROS).map_err(named)?;
        let negotiated = Credential::acquire(functions, settings, SPNEGO).map_err(named)?;
        negotiated.only_kerberos().map_err(named)?;
        Ok(Acceptor { kerberos, negotiated })
    }
}

struct Credential {
    functions: &'static Functions,
    handle: Handle,
}

// SAFETY: the library locks what a credential holds; it may be used by any threads at a time (RFC 2743 1.2.5 leaves it open, MIT does it).
unsafe impl Send for Credential {}
// SAFETY: as above.
unsafe impl Sync for Credential {}

impl Credential {
    fn acquire(
        functions: &'static Functions,
        settings: &KerberosSettings,
        mechanism: &'static [u8],
    ) -> Result<Credential, String> {
        let text = |text: String| CString::new(text).map_err(|_| "a NUL is in it".to_owned());
        let keytab = text(format!("FILE:{}", settings.keytab.display()))?;
        let replays = text(format!("file2:{}", settings.replays.display()))?;
        let values = [
            KeyValue { key: c"keytab".as_ptr(), value: keytab.as_ptr() },
            KeyValue { key: c"rcache".as_ptr(), value: replays.as_ptr() },
        ];
        let store = KeyValues { count: 2, elements: values.as_ptr() };
        let oid = Oid::of(mechanism);
        let mechanisms = OidSet { count: 1, elements: &oid };
        let name = settings.service.as_deref().map(|service| Name::import(functions, service)).transpose()?;
        let name = name.as_ref().map_or(null_mut(), |name| name.handle);
        let (mut minor, mut handle) = (0, null_mut());
        // SAFETY: all pointers are to places of this frame, and the name is held until its end.
        let major = unsafe {
            (functions.acquire_cred_from)(
                &mut minor,
                name,
                INDEFINITE,
                &mechanisms,
                ACCEPT,
                &store,
                &mut handle,
                null_mut(),
                null_mut(),
            )
        };
        if major & ERRORS != 0 { Err(functions.error(major, minor)) } else { Ok(Credential { functions, handle }) }
    }

    /// SPNEGO would else take whatever the system has plug-ins for.
    fn only_kerberos(&self) -> Result<(), String> {
        let oid = Oid::of(KERBEROS);
        let mechanisms = OidSet { count: 1, elements: &oid };
        let mut minor = 0;
        // SAFETY: the handle is ours, the rest are places of this frame; the library copies the set.
        let major = unsafe { (self.functions.set_neg_mechs)(&mut minor, self.handle, &mechanisms) };
        if major & ERRORS != 0 { Err(self.functions.error(major, minor)) } else { Ok(()) }
    }
}

impl Drop for Credential {
    fn drop(&mut self) {
        let mut minor = 0;
        // SAFETY: the handle is ours and not used again.
        unsafe { (self.functions.release_cred)(&mut minor, &mut self.handle) };
    }
}

struct Name {
    functions: &'static Functions,
    handle: Handle,
}

impl Name {
    fn import(functions: &'static Functions, principal: &str) -> Result<Name, String> {
        let (mut minor, mut handle) = (0, null_mut());
        let (text, kind) = (Buffer::of(principal.as_bytes()), Oid::of(PRINCIPAL_NAME));
        // SAFETY: all pointers are to places of this frame; the library copies them.
        let major = unsafe { (functions.import_name)(&mut minor, &text, &kind, &mut handle) };
        if major & ERRORS != 0 { Err(functions.error(major, minor)) } else { Ok(Name { functions, handle }) }
    }

    /// The name as text, `alice@EXAMPLE.ORG`.
    fn text(&self) -> Result<String, String> {
        let (mut minor, mut buffer) = (0, Buffer::EMPTY);
        // SAFETY: the handle is ours, the rest are places of this frame.
        let major = unsafe { (self.functions.display_name)(&mut minor, self.handle, &mut buffer, null_mut()) };
        let text = self.functions.taken(buffer);
        if major & ERRORS != 0 {
            return Err(self.functions.error(major, minor));
        }
        String::from_utf8(text).map_err(|_| "the client's name is no UTF-8".to_owned())
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        let mut minor = 0;
        // SAFETY: the handle is ours and not used again.
        unsafe { (self.functions.release_name)(&mut minor, &mut self.handle) };
    }
}

/// Why a token is not accepted.
#[derive(Debug)]
pub(super) enum Trouble {
    /// It proves nothing.
    Refused(String),
    /// We have nothing to check it with.
    NoKeys(String),
}

/// What a token led to.
pub(super) enum Accepted {
    /// The client owes another, in answer to this.
    More(Vec<u8>),
    /// It is this principal. What is not empty is still owed to it.
    Principal { name: String, token: Vec<u8> },
}

/// One side of a conversation in tokens, ours.
pub(super) struct Context {
    acceptor: Arc<Acceptor>,
    tokens: Tokens,
    handle: Handle,
}

// SAFETY: the library ties a context to no thread; only who holds it uses it, by `&mut`.
unsafe impl Send for Context {}
// SAFETY: nothing can be done with a shared one.
unsafe impl Sync for Context {}

impl Context {
    pub(super) fn new(acceptor: Arc<Acceptor>, tokens: Tokens) -> Context {
        Context { acceptor, tokens, handle: null_mut() }
    }

    fn credential(&self) -> &Credential {
        match self.tokens {
            Tokens::Kerberos => &self.acceptor.kerberos,
            Tokens::Negotiated => &self.acceptor.negotiated,
        }
    }

    fn functions(&self) -> &'static Functions {
        self.acceptor.kerberos.functions
    }

    /// Takes the client's next token. A client that binds must bind to `channel`; one that does not is taken as well. Blocks.
    pub(super) fn accept(&mut self, token: &[u8], channel: Option<&[u8]>) -> Result<Accepted, Trouble> {
        let functions = self.functions();
        let bindings = channel.map(|data| Bindings {
            initiator_kind: 0,
            initiator: Buffer::EMPTY,
            acceptor_kind: 0,
            acceptor: Buffer::EMPTY,
            data: Buffer::of(data),
        });
        let bindings = bindings.as_ref().map_or(null(), |bindings| &raw const *bindings);
        let credential = self.credential().handle;
        let (input, mut output) = (Buffer::of(token), Buffer::EMPTY);
        let (mut minor, mut flags) = (0, 0);
        let mut name = Name { functions, handle: null_mut() };
        // SAFETY: the handles are ours, the rest are places of this frame. No delegated credentials are asked for.
        let major = unsafe {
            (functions.accept_sec_context)(
                &mut minor,
                &mut self.handle,
                credential,
                &input,
                bindings,
                &mut name.handle,
                null_mut(),
                &mut output,
                &mut flags,
                null_mut(),
                null_mut(),
            )
        };
        let token = functions.taken(output);
        match major {
            COMPLETE if flags & ANONYMOUS != 0 => Err(Trouble::Refused("the client is anonymous".to_owned())),
            COMPLETE => name.text().map(|name| Accepted::Principal { name, token }).map_err(Trouble::Refused),
            CONTINUE_NEEDED => Ok(Accepted::More(token)),
            _ if major & ERRORS == NO_CREDENTIALS => Err(Trouble::NoKeys(functions.error(major, minor))),
            _ => Err(Trouble::Refused(functions.error(major, minor))),
        }
    }

    /// A message that the client can check, in clear.
    pub(super) fn wrap(&mut self, message: &[u8]) -> Result<Vec<u8>, Trouble> {
        let functions = self.functions();
        let (mut minor, mut output) = (0, Buffer::EMPTY);
        let input = Buffer::of(message);
        // SAFETY: the handle is ours, the rest are places of this frame.
        let major = unsafe { (functions.wrap)(&mut minor, self.handle, 0, 0, &input, null_mut(), &mut output) };
        self.result(major, minor, output)
    }

    /// A message of the client, checked.
    pub(super) fn unwrap(&mut self, message: &[u8]) -> Result<Vec<u8>, Trouble> {
        let functions = self.functions();
        let (mut minor, mut output) = (0, Buffer::EMPTY);
        let input = Buffer::of(message);
        // SAFETY: the handle is ours, the rest are places of this frame.
        let major = unsafe { (functions.unwrap)(&mut minor, self.handle, &input, &mut output, null_mut(), null_mut()) };
        self.result(major, minor, output)
    }

    fn result(&self, major: u32, minor: u32, output: Buffer) -> Result<Vec<u8>, Trouble> {
        let bytes = self.functions().taken(output);
        if major & ERRORS == 0 { Ok(bytes) } else { Err(Trouble::Refused(self.functions().error(major, minor))) }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        if self.handle.is_null() {
            return;
        }
        let mut minor = 0;
        // SAFETY: the handle is ours and not used again.
        unsafe { (self.functions().delete_sec_context)(&mut minor, &mut self.handle, null_mut()) };
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;

    /// A keytab with one key, of `smtp/localhost@EXAMPLE.TEST`, that nobody knows.
    fn keytab() -> Vec<u8> {
        let counted = |text: &[u8]| [&(text.len() as u16).to_be_bytes()[..], text].concat();
        let mut entry = 2u16.to_be_bytes().to_vec();
        [&b"EXAMPLE.TEST"[..], b"smtp", b"localhost"].iter().for_each(|text| entry.extend(counted(text)));
        // Kind of name, time, version of the key, its kind (aes256-cts-hmac-sha1-96), the key.
        entry.extend([0, 0, 0, 3, 0, 0, 0, 0, 1, 0, 18]);
        entry.extend(counted(&[7; 32]));
        [&[5, 2][..], &(entry.len() as u32).to_be_bytes(), &entry].concat()
    }

    fn acceptor(dir: &Path) -> Option<Arc<Acceptor>> {
        if let Err(error) = Functions::get() {
            eprintln!("skipped: {error}");
            return None;
        }
        std::fs::write(dir.join("keytab"), keytab()).unwrap();
        let settings = KerberosSettings {
            keytab: dir.join("keytab"),
            service: Some("smtp/localhost@EXAMPLE.TEST".into()),
            realm: None,
            replays: dir.join("replays"),
        };
        Some(Arc::new(Acceptor::open(&settings).unwrap()))
    }

    /// A token's frame around what is inside (RFC 2743 3.1), all lengths in one byte.
    fn framed(oid: &[u8], inside: &[u8]) -> Vec<u8> {
        let inside = [&[6, oid.len() as u8][..], oid, inside].concat();
        [&[0x60, inside.len() as u8][..], &inside].concat()
    }

    /// SPNEGO's first token with Kerberos inside (RFC 4178 4.2.1).
    fn negotiated(inside: &[u8]) -> Vec<u8> {
        let wrapped = |tag: u8, inside: Vec<u8>| [&[tag, inside.len() as u8][..], &inside].concat();
        let kinds = wrapped(0xa0, wrapped(0x30, wrapped(6, KERBEROS.to_vec())));
        let token = wrapped(0xa2, wrapped(4, framed(KERBEROS, inside)));
        framed(SPNEGO, &wrapped(0xa0, wrapped(0x30, [kinds, token].concat())))
    }

    #[test]
    fn a_service_that_has_no_key_is_named() {
        let dir = tempfile::tempdir().unwrap();
        if acceptor(dir.path()).is_none() {
            return;
        }
        let settings = KerberosSettings {
            keytab: dir.path().join("keytab"),
            service: Some("smtp/elsewhere@EXAMPLE.TEST".into()),
            realm: None,
            replays: dir.path().join("replays"),
        };
        let error = Acceptor::open(&settings).err().unwrap();
        assert!(error.contains("keytab") && error.contains("elsewhere"), "{error}");
    }

    /// FND-08: whatever the client says in place of a token, it becomes nobody, and nothing breaks.
    #[test]
    fn no_bytes_make_somebody() {
        let dir = tempfile::tempdir().unwrap();
        let Some(acceptor) = acceptor(dir.path()) else { return };
        let mut runner = proptest::test_runner::TestRunner::default();
        let bytes = || proptest::collection::vec(any::<u8>(), 0..60);
        let tokens = prop_oneof![
            bytes(),
            bytes().prop_map(|inside| framed(KERBEROS, &inside)),
            bytes().prop_map(|inside| framed(KERBEROS, &[&[1, 0][..], &inside].concat())),
            bytes().prop_map(|inside| negotiated(&[&[1, 0][..], &inside].concat())),
            (bytes(), any::<usize>(), any::<u8>()).prop_map(|(inside, at, byte)| {
                let mut token = negotiated(&inside);
                let at = at % token.len();
                token[at] = byte;
                token
            }),
        ];
        let channels = proptest::option::of(bytes());
        runner
            .run(&(proptest::collection::vec(tokens, 1..3), channels), |(tokens, channel)| {
                for kind in [Tokens::Kerberos, Tokens::Negotiated] {
                    let mut context = Context::new(acceptor.clone(), kind);
                    for token in &tokens {
                        match context.accept(token, channel.as_deref()) {
                            Ok(Accepted::Principal { name, .. }) => prop_assert!(false, "{name}"),
                            Ok(Accepted::More(_)) => {}
                            Err(Trouble::Refused(why) | Trouble::NoKeys(why)) => {
                                prop_assert!(!why.is_empty() && why.len() <= GSSAPI_TEXT_MAX_BYTES, "{why}");
                                prop_assert!(!why.contains(char::is_control), "{why}");
                            }
                        }
                        let _ = (context.unwrap(token).is_ok(), context.wrap(token).is_ok());
                    }
                }
                Ok(())
            })
            .unwrap();
    }
}
