//! The spool on disk: its directories and files, opening it at start-up, and looking into it with tools.
//!
//! `DIR/lock` is held by the one relay that uses the spool; `DIR/shard-NNN/segment-NNNNNN.log` are the segments.
//! [`open_spool`] recovers every shard and moves the messages of shards that are no longer configured to those that
//! are. The rest only reads, and may be used while a relay runs: it then sees a moment of it. The one file of the
//! queue that does I/O; on the starting thread, before any shard runs, or in a tool.

use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::num::NonZero;
use std::os::unix::fs::FileExt as _;
use std::panic;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::base::bytes::HeapBlocks;
use crate::base::ids::{MessageId, Position, ShardId};
use crate::base::limits::SEGMENT_RETRY_MS;
use crate::base::time::Mono;
use crate::queue::record::{
    AcceptView, CopyOf, Draft, DraftRecipient, HEADER_BYTES, RecipientState, RecipientView, verify as verify_record,
};
use crate::queue::recover::{Damage, RecoveredMessage, Recovery, ShardStart};
use crate::queue::{Commit, CommitSettings, DiskError, DiskOrder, Log, LogRefusal, LogSettings, SegmentSlot, Ticket};

mod salvage;
pub use salvage::{Salvaged, salvage};

/// What a spool is opened with.
#[derive(Clone, Debug)]
pub struct SpoolSettings {
    /// Its directory; made if it is not there.
    pub dir: PathBuf,
    /// Shards of the relay.
    pub shards: u16,
    /// Size of new segment files.
    pub segment_bytes: u32,
    /// Segment files of one shard at most.
    pub segments_max: usize,
    /// How segments are read.
    pub open: OpenSegment,
}

/// Opens a segment file to be read from its beginning, each once or twice. [`open_file`] does, and may not be the fastest.
pub type OpenSegment = fn(&Path) -> io::Result<Box<dyn Read>>;

/// Keeps other relays out of the spool as long as it lives.
#[derive(Debug)]
pub struct SpoolLock(#[allow(dead_code, reason = "held, not read")] File);

/// Why a spool cannot be used.
#[derive(Debug)]
pub enum SpoolError {
    /// Another relay holds it.
    InUse(PathBuf),
    /// A file could not be read or written.
    Io(PathBuf, io::Error),
    /// The messages of a shard that is no longer configured find no room.
    NoRoom(ShardId, LogRefusal),
    /// There is no such open message.
    NoMessage(MessageId),
    /// Where to salvage to is not empty.
    NotEmpty(PathBuf),
}

impl fmt::Display for SpoolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SpoolError::InUse(dir) => write!(f, "the spool {} is in use by another relay", dir.display()),
            SpoolError::Io(path, error) => write!(f, "{}: {error}", path.display()),
            SpoolError::NoRoom(shard, LogRefusal::Full) => {
                write!(f, "no room to move the messages of shard {}: raise queue.segments or free disk space", shard.0)
            }
            SpoolError::NoRoom(shard, LogRefusal::Failing) => {
                write!(f, "the messages of shard {} could not be copied: writing failed", shard.0)
            }
            SpoolError::NoMessage(id) => write!(f, "no open message {id}"),
            SpoolError::NotEmpty(dir) => write!(f, "{} is not empty: name a new directory", dir.display()),
        }
    }
}

impl std::error::Error for SpoolError {}

fn at<T>(path: &Path, result: io::Result<T>) -> Result<T, SpoolError> {
    result.map_err(|error| SpoolError::Io(path.to_path_buf(), error))
}

/// Directory of a shard.
pub fn shard_dir(dir: &Path, shard: ShardId) -> PathBuf {
    dir.join(format!("shard-{:03}", shard.0))
}

/// File of a segment.
pub fn segment_path(dir: &Path, shard: ShardId, slot: SegmentSlot) -> PathBuf {
    shard_dir(dir, shard).join(format!("segment-{:06}.log", slot.0))
}

/// Makes the spool's directories, locks it, recovers it, and moves the messages of shards beyond the configured ones.
/// One start per shard, in order.
pub fn open_spool(settings: &SpoolSettings) -> Result<(SpoolLock, Vec<ShardStart>), SpoolError> {
    let dir = &settings.dir;
    at(dir, fs::create_dir_all(dir))?;
    let lock = lock(dir)?;
    for shard in 0..settings.shards {
        let path = shard_dir(dir, ShardId(shard));
        at(&path, fs::create_dir_all(&path))?;
    }
    at(dir, sync_dir(dir))?;
    remove_retired(dir)?;
    let mut starts = recover_at_start(settings)?;
    let orphans = starts.split_off(usize::from(settings.shards));
    if orphans.is_empty() {
        return Ok((lock, starts));
    }
    for orphan in &orphans {
        let target = &mut starts[usize::from(orphan.shard.0 % settings.shards)];
        adopt(settings, orphan, target)?;
        // What was just written is part of the target's past.
        starts = recover_at_start(settings)?;
        starts.truncate(usize::from(settings.shards));
    }
    for orphan in &orphans {
        retire(dir, orphan.shard)?;
    }
    remove_retired(dir)?;
    let mut starts = recover_at_start(settings)?;
    for orphan in orphans {
        starts[0].damage.extend(orphan.damage);
    }
    Ok((lock, starts))
}

fn lock(dir: &Path) -> Result<SpoolLock, SpoolError> {
    let path = dir.join("lock");
    let file = at(&path, OpenOptions::new().create(true).truncate(false).write(true).open(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(SpoolLock(file)),
        Err(TryLockError::WouldBlock) => Err(SpoolError::InUse(dir.to_path_buf())),
        Err(TryLockError::Error(error)) => Err(SpoolError::Io(path, error)),
    }
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Takes a shard's directory out of the spool in one move: half of a log would bring settled messages back.
fn retire(dir: &Path, shard: ShardId) -> Result<(), SpoolError> {
    let from = shard_dir(dir, shard);
    at(&from, fs::rename(&from, dir.join(format!("retired-{:03}", shard.0))))?;
    at(dir, sync_dir(dir))
}

fn remove_retired(dir: &Path) -> Result<(), SpoolError> {
    for (_, path) in numbered(dir, "retired-", "")? {
        at(&path, fs::remove_dir_all(&path))?;
    }
    Ok(())
}

/// The entries of a directory named `PREFIX` number `SUFFIX`, in order.
fn numbered(dir: &Path, prefix: &str, suffix: &str) -> Result<Vec<(u32, PathBuf)>, SpoolError> {
    let mut found = Vec::new();
    for entry in at(dir, fs::read_dir(dir))? {
        let entry = at(dir, entry)?;
        let name = entry.file_name();
        let digits = name.to_str().and_then(|name| name.strip_prefix(prefix)?.strip_suffix(suffix));
        if let Some(number) = digits.and_then(|digits| digits.parse().ok()) {
            found.push((number, entry.path()));
        }
    }
    found.sort();
    Ok(found)
}

/// Reads the whole spool; the first `shards` starts are the configured shards. One thread: a tool may run beside a relay.
fn recover(dir: &Path, shards: u16) -> Result<Vec<ShardStart>, SpoolError> {
    recover_through(dir, shards, &mut |path| open_file(path).map(Some))
}

/// The same through readers of the caller's own; a file that it gives none for is left out.
fn recover_through<R: Read>(
    dir: &Path,
    shards: u16,
    open: &mut dyn FnMut(&Path) -> io::Result<Option<R>>,
) -> Result<Vec<ShardStart>, SpoolError> {
    let mut recovery = Recovery::new();
    logs(dir)?.iter().try_for_each(|log| read_log(&mut recovery, log, open))?;
    Ok(recovery.finish(shards))
}

/// The same on all cores: nothing else runs yet, and mail waits. Each thread takes the log of one shard after the other.
fn recover_at_start(settings: &SpoolSettings) -> Result<Vec<ShardStart>, SpoolError> {
    let logs = logs(&settings.dir)?;
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    let next = AtomicUsize::new(0);
    let read = || -> Result<Recovery, SpoolError> {
        let mut recovery = Recovery::new();
        while let Some(log) = logs.get(next.fetch_add(1, Ordering::Relaxed)) {
            read_log(&mut recovery, log, &mut |path| (settings.open)(path).map(Some))?;
        }
        Ok(recovery)
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (1..cores.min(logs.len())).map(|_| scope.spawn(read)).collect();
        let mut recovery = read()?;
        for thread in threads {
            recovery.join(thread.join().unwrap_or_else(|panic| panic::resume_unwind(panic))?);
        }
        Ok(recovery.finish(settings.shards))
    })
}

/// Opens a segment file by ordinary means.
pub fn open_file(path: &Path) -> io::Result<Box<dyn Read>> {
    Ok(Box::new(File::open(path)?))
}

/// The shards that have a log, and their directories.
fn logs(dir: &Path) -> Result<Vec<(ShardId, PathBuf)>, SpoolError> {
    let shard = |(number, path)| Some((u16::try_from(number).map(ShardId).ok()?, path));
    Ok(numbered(dir, "shard-", "")?.into_iter().filter_map(shard).collect())
}

/// Feeds all segments of a shard.
fn read_log<R: Read>(
    recovery: &mut Recovery,
    (shard, dir): &(ShardId, PathBuf),
    open: &mut dyn FnMut(&Path) -> io::Result<Option<R>>,
) -> Result<(), SpoolError> {
    let mut files = Vec::new();
    for (slot, path) in numbered(dir, "segment-", ".log")? {
        let Some(mut file) = at(&path, open(&path))? else { continue };
        let life = at(&path, Recovery::life(*shard, &mut file))?;
        files.push((life, SegmentSlot(slot), path));
    }
    files.sort_by_key(|(life, slot, _)| std::cmp::Reverse((*life, *slot)));
    for (_, slot, path) in files {
        let size = at(&path, fs::metadata(&path))?.len().min(u64::from(u32::MAX)) as u32;
        let Some(mut file) = at(&path, open(&path))? else { continue };
        at(&path, recovery.segment(*shard, slot, size, &mut file))?;
    }
    Ok(())
}

// ---- moving the messages of a shard that is no longer configured ----

/// Copies a shard's open messages, names kept, into another shard's log; durable when it returns.
fn adopt(settings: &SpoolSettings, orphan: &ShardStart, target: &mut ShardStart) -> Result<(), SpoolError> {
    if orphan.messages.is_empty() {
        return Ok(());
    }
    let shard = target.shard;
    let start = std::mem::replace(target, ShardStart::empty(shard));
    let mut writer = Writer::open(&settings.dir, start, settings.segment_bytes, settings.segments_max);
    let refused = |refusal| SpoolError::NoRoom(orphan.shard, refusal);
    let mut tickets = Vec::with_capacity(orphan.messages.len());
    for message in &orphan.messages {
        tickets.push(writer.copy(&settings.dir, orphan, message)?.map_err(refused)?);
    }
    tickets.iter().try_for_each(|ticket| writer.until_durable(ticket)).map_err(refused)
}

/// A log whose disk is plain files, written one order after the other.
struct Writer<'a> {
    dir: &'a Path,
    shard: ShardId,
    log: Log,
    now: Mono,
}

impl<'a> Writer<'a> {
    /// Opens the log in `dir` that begins as `start` says.
    fn open(dir: &'a Path, start: ShardStart, segment_bytes: u32, segments_max: usize) -> Writer<'a> {
        let shard = start.shard;
        let commit = CommitSettings::default();
        let settings = LogSettings { shard, segment_bytes, segments_max, hot_bytes: 0, commit };
        Writer { dir, shard, log: Log::open(settings, start, Box::new(HeapBlocks)), now: Mono(0) }
    }

    /// Appends a copy of a message that stands in the spool `from`; the ticket tells when it is durable.
    fn copy(
        &mut self,
        from: &Path,
        start: &ShardStart,
        message: &RecoveredMessage,
    ) -> Result<Result<Ticket, LogRefusal>, SpoolError> {
        let payload = read_record(from, start, message.place.position, message.place.record_bytes())?;
        let view = AcceptView::read(&payload).expect("recovery read it");
        let mut chunks = Vec::new();
        for chunk in &message.chunks {
            let copied = read_record(from, start, chunk.position, chunk.record_bytes())
                .map(|body| self.until_taken(|log| log.copy_chunk(&body)));
            match copied {
                Ok(Ok(chunk)) => chunks.push(chunk),
                Ok(Err(refusal)) => return Ok(Err(refusal)),
                Err(error) => {
                    self.log.drop_chunks(&chunks);
                    return Err(error);
                }
            }
        }
        let recipients: Vec<_> =
            view.recipients().enumerate().map(|(index, recipient)| draft(index, recipient, message)).collect();
        let draft = Draft {
            copy_of: Some(CopyOf { id: message.id, copies: message.place.copies }),
            arrived: message.arrived,
            text: message.text,
            body_bytes: message.body_bytes,
            sender: &message.sender,
            recipients: &recipients,
            parameters: &message.parameters,
            chunks: &chunks,
            tail: &[&payload[view.tail.clone()]],
        };
        let prefix = &payload[view.prefix.clone()];
        let taken = self
            .until_taken(|log| log.append_accept(&draft, &mut |_, out: &mut Vec<u8>| out.extend_from_slice(prefix)));
        Ok(taken.map(|appended| appended.ticket))
    }

    fn until_durable(&mut self, ticket: &Ticket) -> Result<(), LogRefusal> {
        loop {
            match self.log.outcome(ticket) {
                Commit::Durable => return Ok(()),
                Commit::Failed(refusal) => return Err(refusal),
                Commit::Pending => self.turn(),
            }
        }
    }

    fn until_taken<T>(&mut self, mut append: impl FnMut(&mut Log) -> Result<T, LogRefusal>) -> Result<T, LogRefusal> {
        for _ in 0..8 {
            if let Ok(taken) = append(&mut self.log) {
                return Ok(taken);
            }
            self.turn();
        }
        append(&mut self.log)
    }

    /// One poll of the log, and everything it orders.
    fn turn(&mut self) {
        self.now = self.now.plus_ms(SEGMENT_RETRY_MS);
        let mut orders = Vec::new();
        self.log.poll(self.now, &mut orders);
        for order in orders {
            match order {
                DiskOrder::Write { write, slot, offset_bytes, block } => {
                    let path = segment_path(self.dir, self.shard, slot);
                    let result = write_at(&path, offset_bytes, block.bytes()).map_err(disk_error);
                    self.log.written(self.now, write, result);
                }
                DiskOrder::PrepareSegment { slot } => {
                    let path = segment_path(self.dir, self.shard, slot);
                    let result = self.prepare(&path).map_err(disk_error);
                    self.log.segment_prepared(self.now, slot, result);
                }
            }
        }
    }

    fn prepare(&self, path: &Path) -> io::Result<()> {
        let unfinished = path.with_extension("new");
        let mut file = File::create(&unfinished)?;
        let zeros = vec![0; 1 << 20];
        let mut left = self.log.segment_bytes() as usize;
        while left > 0 {
            let count = left.min(zeros.len());
            file.write_all(&zeros[..count])?;
            left -= count;
        }
        file.sync_all()?;
        fs::rename(&unfinished, path)?;
        sync_dir(path.parent().expect("a segment is in a directory"))
    }
}

fn draft<'a>(index: usize, recipient: RecipientView<'a>, message: &RecoveredMessage) -> DraftRecipient<'a> {
    let open = message.recipients.iter().find(|open| open.index as usize == index);
    DraftRecipient {
        address: recipient.address,
        state: match (open, recipient.state) {
            (Some(_), _) => RecipientState::Open,
            (None, RecipientState::Failed) => RecipientState::Failed,
            (None, _) => RecipientState::Delivered,
        },
        attempts: open.map_or(recipient.attempts, |open| open.attempts),
        due: open.map_or(recipient.due, |open| open.due),
        delay_reported: open.map_or(recipient.delay_reported, |open| open.delay_reported),
    }
}

fn write_at(path: &Path, offset_bytes: u32, bytes: &[u8]) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    file.write_all_at(bytes, u64::from(offset_bytes))?;
    file.sync_data()
}

fn disk_error(error: io::Error) -> DiskError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => DiskError::Full,
        _ => DiskError::Io { errno: error.raw_os_error().unwrap_or(0) },
    }
}

fn read_record(dir: &Path, start: &ShardStart, position: Position, record_bytes: u32) -> Result<Vec<u8>, SpoolError> {
    let segment = start.segments.iter().find(|segment| segment.life == position.life());
    let path = segment_path(dir, start.shard, segment.expect("recovery found it there").slot);
    let mut bytes = vec![0; record_bytes as usize];
    let mut read = || {
        File::open(&path)?.read_exact_at(&mut bytes, u64::from(position.offset_bytes()))?;
        if verify_record(&bytes, start.shard, position).is_none() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a record changed since it was found"));
        }
        Ok(bytes.split_off(HEADER_BYTES))
    };
    at(&path, read())
}

// ---- looking into a spool ----

/// What `ringpost spool verify` and `ringpost queue stats` say.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// One line per shard that has a log.
    pub shards: Vec<ShardReport>,
    /// What is not as it should be.
    pub damage: Vec<Damage>,
}

/// One shard's log in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShardReport {
    /// Its number.
    pub shard: u16,
    /// Segment files.
    pub segments: usize,
    /// Those in which something is needed.
    pub segments_used: usize,
    /// Their size on disk, all of them.
    pub disk_bytes: u64,
    /// Size of the records that are needed.
    pub live_bytes: u64,
    /// Open messages.
    pub messages: usize,
    /// Open recipients.
    pub recipients: usize,
}

impl Report {
    /// True if nothing is damaged.
    pub fn is_sound(&self) -> bool {
        self.damage.is_empty()
    }

    /// The same as JSON.
    pub fn to_json(&self) -> String {
        let shards: Vec<_> = self.shards.iter().map(ShardReport::json).collect();
        let damage: Vec<_> = self.damage.iter().map(|damage| quoted(&damage.to_string())).collect();
        format!("{{\"sound\":{},\"shards\":[{}],\"damage\":[{}]}}", self.is_sound(), shards.join(","), damage.join(","))
    }
}

impl ShardReport {
    fn json(&self) -> String {
        format!(
            "{{\"shard\":{},\"segments\":{},\"segments_used\":{},\"disk_bytes\":{},\"live_bytes\":{},\"messages\":{},\
             \"recipients\":{}}}",
            self.shard,
            self.segments,
            self.segments_used,
            self.disk_bytes,
            self.live_bytes,
            self.messages,
            self.recipients
        )
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for shard in &self.shards {
            writeln!(
                f,
                "shard {}: {} messages, {} recipients, {} live bytes in {} of {} segments",
                shard.shard, shard.messages, shard.recipients, shard.live_bytes, shard.segments_used, shard.segments
            )?;
        }
        for damage in &self.damage {
            writeln!(f, "damage: {damage}")?;
        }
        f.write_str(if self.is_sound() { "sound" } else { "damaged" })
    }
}

/// Text as a JSON string.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c < ' ' => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Reads every record of the spool and says what is there and what is damaged (QUE-10).
pub fn verify(dir: &Path) -> Result<Report, SpoolError> {
    let mut report = Report::default();
    for start in recover(dir, 0)? {
        report.shards.push(ShardReport {
            shard: start.shard.0,
            segments: start.segments.len(),
            segments_used: start.segments.iter().filter(|segment| segment.live_records > 0).count(),
            disk_bytes: start.segments.iter().map(|segment| u64::from(segment.size_bytes)).sum(),
            live_bytes: start.segments.iter().map(|segment| segment.live_bytes).sum(),
            messages: start.messages.len(),
            recipients: start.messages.iter().map(|message| message.recipients.len()).sum(),
        });
        report.damage.extend(start.damage);
    }
    Ok(report)
}

/// An open message, for `ringpost queue ls`.
#[derive(Clone, Debug)]
pub struct ListedMessage {
    /// Whose log it is in.
    pub shard: ShardId,
    /// Everything recovery knows of it.
    pub message: RecoveredMessage,
}

impl fmt::Display for ListedMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let message = &self.message;
        let sender = String::from_utf8_lossy(&message.sender);
        write!(f, "{} {} bytes from <{sender}>", message.id, message.body_bytes)?;
        for recipient in &message.recipients {
            let address = String::from_utf8_lossy(&recipient.address);
            write!(f, "\n  to <{address}> attempts {} due {}", recipient.attempts, recipient.due.0)?;
        }
        Ok(())
    }
}

impl ListedMessage {
    /// The same as JSON.
    pub fn to_json(&self) -> String {
        let message = &self.message;
        let recipient = |r: &crate::queue::RecoveredRecipient| {
            let address = quoted(&String::from_utf8_lossy(&r.address));
            format!("{{\"address\":{address},\"attempts\":{},\"due_ms\":{}}}", r.attempts, r.due.0)
        };
        let recipients: Vec<_> = message.recipients.iter().map(recipient).collect();
        format!(
            "{{\"id\":\"{}\",\"shard\":{},\"arrived_ms\":{},\"body_bytes\":{},\"sender\":{},\"recipients\":[{}]}}",
            message.id,
            self.shard.0,
            message.arrived.0,
            message.body_bytes,
            quoted(&String::from_utf8_lossy(&message.sender)),
            recipients.join(",")
        )
    }
}

/// All open messages, by shard and place.
pub fn list(dir: &Path) -> Result<Vec<ListedMessage>, SpoolError> {
    let starts = recover(dir, 0)?.into_iter();
    let listed = |start: ShardStart| {
        let shard = start.shard;
        start.messages.into_iter().map(move |message| ListedMessage { shard, message: *message })
    };
    Ok(starts.flat_map(listed).collect())
}

/// One open message and its text in wire form: prefix and body, dot-stuffed, without the final dot.
pub fn show(dir: &Path, id: MessageId) -> Result<(ListedMessage, Vec<u8>), SpoolError> {
    for mut start in recover(dir, 0)? {
        let Some(index) = start.messages.iter().position(|message| message.id == id) else { continue };
        let message = *start.messages.swap_remove(index);
        let payload = read_record(dir, &start, message.place.position, message.place.record_bytes())?;
        let view = AcceptView::read(&payload).expect("recovery read it");
        let mut text = payload[view.prefix.clone()].to_vec();
        for chunk in &message.chunks {
            text.extend(read_record(dir, &start, chunk.position, chunk.record_bytes())?);
        }
        text.extend_from_slice(&payload[view.tail.clone()]);
        return Ok((ListedMessage { shard: start.shard, message }, text));
    }
    Err(SpoolError::NoMessage(id))
}

#[cfg(test)]
mod tests;
