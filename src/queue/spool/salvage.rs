//! Saving what can be saved from a spool whose medium damaged it: `ringpost spool salvage`.
//!
//! The damaged spool is only read, and read on past bytes and files that the medium does not give any more. What is whole
//! goes into a fresh spool, names and states kept, which a relay takes as its own. What is not whole is set aside as files
//! for a person to look at: messages of which parts are missing, and the bytes that do not check out. In a tool, while
//! no relay runs on the spool. Errors are those of the new directory; what the old one does not give is no error.

use super::*;

use crate::base::limits::{DISK_ALIGN_BYTES, SEGMENT_CEILING_BYTES, SEGMENT_MIN_BYTES, SEGMENTS_MAX};

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Salvaged {
    /// Messages in the new spool.
    pub messages: usize,
    /// Their open recipients.
    pub recipients: usize,
    /// Messages that were accepted, of which parts are missing: set aside.
    pub incomplete: usize,
    /// Ranges of bytes that do not check out: set aside.
    pub ranges: usize,
    /// What could not be read at all, and why.
    pub unreadable: Vec<String>,
    /// What else is not as it should be, in words.
    pub damage: Vec<String>,
}

impl fmt::Display for Salvaged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.damage.iter().try_for_each(|damage| writeln!(f, "damage: {damage}"))?;
        self.unreadable.iter().try_for_each(|text| writeln!(f, "unreadable: {text}"))?;
        write!(
            f,
            "saved {} messages with {} recipients; set aside {} incomplete messages and {} ranges of bytes",
            self.messages, self.recipients, self.incomplete, self.ranges
        )
    }
}

impl Salvaged {
    /// The same as JSON.
    pub fn to_json(&self) -> String {
        let list = |texts: &[String]| texts.iter().map(|text| quoted(text)).collect::<Vec<_>>().join(",");
        format!(
            "{{\"messages\":{},\"recipients\":{},\"incomplete\":{},\"ranges\":{},\"unreadable\":[{}],\"damage\":[{}]}}",
            self.messages,
            self.recipients,
            self.incomplete,
            self.ranges,
            list(&self.unreadable),
            list(&self.damage)
        )
    }
}

/// Saves the spool `from` into the directory `into`, which must be new or empty: whole messages into the spool
/// `into/queue`, the rest as files into `into/aside`. Durable when it returns.
pub fn salvage(from: &Path, into: &Path) -> Result<Salvaged, SpoolError> {
    let _lock = lock_for_reading(from)?;
    at(into, fs::create_dir_all(into))?;
    if at(into, fs::read_dir(into))?.next().is_some() {
        return Err(SpoolError::NotEmpty(into.to_path_buf()));
    }
    let mut salvaged = Salvaged::default();
    let mut unreadable = Vec::new();
    let starts = recover_through(from, 0, &mut |path| Ok(Forgiving::open(path, &mut unreadable)))?;
    salvaged.unreadable = unreadable;
    let (queue, aside) = (into.join("queue"), into.join("aside"));
    for dir in [&queue, &aside] {
        at(dir, fs::create_dir(dir))?;
    }
    for start in &starts {
        salvaged.damage.extend(start.damage.iter().map(Damage::to_string));
        save_whole(from, &queue, start, &mut salvaged)?;
        start.aside.iter().try_for_each(|message| save_part(from, &aside, start, message, &mut salvaged))?;
        start.damage.iter().try_for_each(|damage| save_range(from, &aside, damage, &mut salvaged))?;
    }
    for dir in [&queue, &aside, into] {
        at(dir, sync_dir(dir))?;
    }
    Ok(salvaged)
}

/// Two owners of the same messages would both deliver them. A spool without a lock file, or on a file system that
/// cannot lock, has no owner.
fn lock_for_reading(dir: &Path) -> Result<Option<File>, SpoolError> {
    let Ok(file) = File::open(dir.join("lock")) else { return Ok(None) };
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Err(SpoolError::InUse(dir.to_path_buf())),
        _ => Ok(Some(file)),
    }
}

/// Copies the messages of one shard that can be delivered into the same shard of the new spool. One that turns out to be
/// unreadable now is set aside like one that was so before.
fn save_whole(from: &Path, queue: &Path, start: &ShardStart, salvaged: &mut Salvaged) -> Result<(), SpoolError> {
    let dir = shard_dir(queue, start.shard);
    at(&dir, fs::create_dir(&dir))?;
    if start.messages.is_empty() {
        return Ok(());
    }
    let largest = start.segments.iter().map(|segment| segment.size_bytes).max().unwrap_or(0);
    let segment_bytes =
        largest.next_multiple_of(DISK_ALIGN_BYTES as u32).clamp(SEGMENT_MIN_BYTES, SEGMENT_CEILING_BYTES);
    // Lives go on where they were, so that no name is given twice.
    let fresh = ShardStart { next_life: start.next_life, ..ShardStart::empty(start.shard) };
    let mut writer = Writer::open(queue, fresh, segment_bytes, SEGMENTS_MAX);
    let refused = |refusal| SpoolError::NoRoom(start.shard, refusal);
    let mut tickets = Vec::with_capacity(start.messages.len());
    for message in &start.messages {
        match writer.copy(from, start, message) {
            Ok(taken) => {
                tickets.push(taken.map_err(refused)?);
                salvaged.messages += 1;
                salvaged.recipients += message.recipients.len();
            }
            Err(error) => salvaged.unreadable.push(format!("message {}: {error}", message.id)),
        }
    }
    tickets.iter().try_for_each(|ticket| writer.until_durable(ticket)).map_err(refused)
}

/// Writes down what there is of a message with missing parts: its envelope, and the parts of its body one behind the
/// other, as stored, with a line where one is missing.
fn save_part(
    from: &Path,
    aside: &Path,
    start: &ShardStart,
    message: &RecoveredMessage,
    salvaged: &mut Salvaged,
) -> Result<(), SpoolError> {
    let listed = ListedMessage { shard: start.shard, message: message.clone() };
    let path = aside.join(format!("{}.json", message.id));
    at(&path, fs::write(&path, listed.to_json()))?;
    let mut text = Vec::new();
    let accept = read_record(from, start, message.place.position, message.place.record_bytes());
    let view = accept.as_ref().ok().and_then(|payload| AcceptView::read(payload).map(|view| (view, payload)));
    if let Some((view, payload)) = &view {
        text.extend_from_slice(&payload[view.prefix.clone()]);
    }
    for chunk in &message.chunks {
        match read_record(from, start, chunk.position, chunk.record_bytes()) {
            Ok(body) => text.extend_from_slice(&body),
            Err(_) => {
                let gap = format!("\r\n[ringpost: {} bytes are missing here]\r\n", chunk.length_bytes);
                text.extend_from_slice(gap.as_bytes());
            }
        }
    }
    if let Some((view, payload)) = &view {
        text.extend_from_slice(&payload[view.tail.clone()]);
    }
    let path = aside.join(format!("{}.part", message.id));
    at(&path, fs::write(&path, text))?;
    salvaged.incomplete += 1;
    Ok(())
}

/// Copies bytes that do not check out: names, addresses and texts can often be read in them.
fn save_range(from: &Path, aside: &Path, damage: &Damage, salvaged: &mut Salvaged) -> Result<(), SpoolError> {
    let Damage::Lost { shard, slot, from: first, to } = damage else { return Ok(()) };
    let mut bytes = vec![0; (to.offset_bytes() - first.offset_bytes()) as usize];
    let mut left = &mut bytes[..];
    if let Some(mut file) = Forgiving::open(&segment_path(from, *shard, *slot), &mut Vec::new()) {
        file.at = u64::from(first.offset_bytes());
        while !left.is_empty() {
            match file.read(left) {
                Ok(0) | Err(_) => break,
                Ok(count) => left = &mut left[count..],
            }
        }
    }
    let name = format!("shard-{:03}-segment-{:06}-{}.bytes", shard.0, slot.0, first.offset_bytes());
    at(aside, fs::write(aside.join(name), bytes))?;
    salvaged.ranges += 1;
    Ok(())
}

/// A file whose sectors read as zeros where the medium gives an error: zeros are no record, so they count as damaged.
struct Forgiving {
    file: File,
    at: u64,
}

impl Forgiving {
    /// None, and a word on it, if the file cannot be opened.
    fn open(path: &Path, unreadable: &mut Vec<String>) -> Option<Forgiving> {
        match File::open(path) {
            Ok(file) => Some(Forgiving { file, at: 0 }),
            Err(error) => {
                unreadable.push(format!("{}: {error}", path.display()));
                None
            }
        }
    }
}

impl Read for Forgiving {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = match self.file.read_at(buffer, self.at) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
            Err(_) => {
                // A read of many sectors fails as a whole: from here on one is tried after the other.
                let sector = DISK_ALIGN_BYTES - (self.at % DISK_ALIGN_BYTES as u64) as usize;
                let length = buffer.len().min(sector);
                match self.file.read_at(&mut buffer[..length], self.at) {
                    Ok(count) => count,
                    Err(_) => {
                        buffer[..length].fill(0);
                        length
                    }
                }
            }
        };
        self.at += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{accept, settings};
    use super::*;

    /// Whole messages go on in the new spool, the broken one and its bytes are set aside, and names do not come twice (QUE-10).
    #[test]
    fn what_is_whole_goes_on_and_the_rest_is_set_aside() {
        let (old, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut ids = Vec::new();
        for _ in 0..3 {
            let (_lock, mut starts) = open_spool(&settings(old.path(), 1)).unwrap();
            ids.push(accept(old.path(), starts.remove(0)));
        }
        let path = segment_path(old.path(), ShardId(0), SegmentSlot(0));
        let mut bytes = fs::read(&path).unwrap();
        // In the chunk of the first message.
        let chunk = bytes.windows(7).position(|bytes| bytes == b"first\r\n").unwrap();
        bytes[chunk] ^= 1;
        fs::write(&path, bytes).unwrap();
        let report = verify(old.path()).unwrap();
        assert!(!report.is_sound());
        let salvaged = salvage(old.path(), new.path()).unwrap();
        let counts = (salvaged.messages, salvaged.recipients, salvaged.incomplete, salvaged.ranges);
        assert_eq!(counts, (2, 2, 1, 1), "{salvaged}");
        assert!(matches!(salvage(old.path(), new.path()), Err(SpoolError::NotEmpty(_))));
        let queue = new.path().join("queue");
        assert!(verify(&queue).unwrap().is_sound());
        let listed = list(&queue).unwrap();
        let mut found: Vec<_> = listed.iter().map(|listed| listed.message.id).collect();
        found.sort();
        assert_eq!(found, ids[1..]);
        for &id in &found {
            assert_eq!(show(&queue, id).unwrap().1, b"Received: x\r\nfirst\r\nlast\r\n");
        }
        let aside = new.path().join("aside");
        let part = fs::read(aside.join(format!("{}.part", ids[0]))).unwrap();
        assert_eq!(part, b"Received: x\r\n\r\n[ringpost: 7 bytes are missing here]\r\nlast\r\n");
        let envelope = fs::read_to_string(aside.join(format!("{}.json", ids[0]))).unwrap();
        assert!(envelope.contains("b@x.example") && !envelope.contains("a@x.example"), "{envelope}");
        // A relay goes on with it, and gives new names.
        let (_lock, mut starts) = open_spool(&settings(&queue, 1)).unwrap();
        assert!(!ids.contains(&accept(&queue, starts.remove(0))));
    }

    #[test]
    fn a_spool_in_use_is_left_alone() {
        let (old, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (_lock, _starts) = open_spool(&settings(old.path(), 1)).unwrap();
        assert!(matches!(salvage(old.path(), new.path()), Err(SpoolError::InUse(_))));
    }
}
