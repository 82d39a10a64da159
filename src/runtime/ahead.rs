//! Segment files read from front to back at the start, past the page cache and ahead of whoever looks at them.
//!
//! The log is written past the page cache, so nothing of it is there, and to bring it there takes longer than to look at it. A file is
//! read with O_DIRECT where its file system knows that, from its second block on by a thread of its own, which ends with the reader.
//! Before any shard runs. Errors are the file's own, told where it is read; an end before the file's length is one of them, for what
//! is behind it would be taken for gone. Nothing here panics on what the disk does.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::thread;

use crossbeam::channel::{Receiver, Sender, bounded};

use crate::base::limits::DISK_ALIGN_BYTES;

/// Read at a time.
const BLOCK_BYTES: usize = 1 << 20;

/// Blocks that wait to be looked at, and are there to be read into.
const BLOCKS_AHEAD: usize = 2;

/// Opens a file to be read from its beginning.
pub fn open(path: &Path) -> io::Result<Box<dyn Read>> {
    match OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path) {
        Ok(file) => {
            let rest_bytes = file.metadata()?.len();
            let source = Source::File(Rest { file, rest_bytes });
            Ok(Box::new(Ahead { source, block: Block::empty(), at: 0 }))
        }
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(Box::new(File::open(path)?)),
        Err(error) => Err(error),
    }
}

/// What is still to be read of a file.
struct Rest<F> {
    file: F,
    rest_bytes: u64,
}

/// Part of a file, in memory that direct I/O can use.
struct Block {
    memory: Vec<u8>,
    /// Where in it the first whole sector is.
    first: usize,
    filled: usize,
}

impl Block {
    fn empty() -> Block {
        Block { memory: Vec::new(), first: 0, filled: 0 }
    }

    fn new() -> Block {
        let memory = vec![0; BLOCK_BYTES + DISK_ALIGN_BYTES];
        let first = memory.as_ptr().align_offset(DISK_ALIGN_BYTES);
        Block { memory, first, filled: 0 }
    }

    /// Reads the next block, which is whole but for the file's last one; nothing if there is nothing more.
    fn read_from<F: Read>(&mut self, Rest { file, rest_bytes }: &mut Rest<F>) -> io::Result<()> {
        let wanted = (*rest_bytes).min(BLOCK_BYTES as u64) as usize;
        let room = &mut self.memory[self.first..][..BLOCK_BYTES];
        let mut filled = 0;
        // A file system may give less at a time. Whole sectors are asked for, also where the file ends in the middle of one.
        while filled < wanted {
            match file.read(&mut room[filled..]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                Err(error) => return Err(error),
            }
        }
        *rest_bytes -= wanted as u64;
        self.filled = wanted;
        Ok(())
    }

    fn bytes(&self) -> &[u8] {
        &self.memory[self.first..][..self.filled]
    }
}

/// Where the next block comes from.
enum Source {
    File(Rest<File>),
    /// A thread reads on; blocks that were looked at go back to it.
    Thread {
        filled: Receiver<io::Result<Block>>,
        empty: Sender<Block>,
    },
    /// The file ended, or failed.
    Nothing,
}

struct Ahead {
    source: Source,
    block: Block,
    at: usize,
}

impl Ahead {
    fn next_block(&mut self) -> io::Result<()> {
        self.at = 0;
        let seen = std::mem::replace(&mut self.block, Block::empty());
        let next = match std::mem::replace(&mut self.source, Source::Nothing) {
            Source::Nothing => return Ok(()),
            Source::File(mut rest) if seen.memory.is_empty() => {
                // Who only asks what the file is needs no more than this.
                let mut block = Block::new();
                block.read_from(&mut rest)?;
                self.source = Source::File(rest);
                block
            }
            Source::File(rest) => {
                let (filled, empty) = read_on(rest)?;
                // With this one.
                let _ = empty.send(seen);
                self.wait_for(filled, empty)?
            }
            Source::Thread { filled, empty } => {
                // If the thread has ended it needs no more.
                let _ = empty.send(seen);
                self.wait_for(filled, empty)?
            }
        };
        if next.filled == 0 {
            self.source = Source::Nothing;
        }
        self.block = next;
        Ok(())
    }

    fn wait_for(&mut self, filled: Receiver<io::Result<Block>>, empty: Sender<Block>) -> io::Result<Block> {
        let gone = |_| Err(io::Error::other("the thread that reads ahead is gone"));
        let block = filled.recv().unwrap_or_else(gone)?;
        self.source = Source::Thread { filled, empty };
        Ok(block)
    }
}

impl Read for Ahead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.block.filled {
            self.next_block()?;
        }
        let rest = &self.block.bytes()[self.at..];
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        self.at += count;
        Ok(count)
    }
}

/// Reads a file to its end on a thread that ends there, at an error, or when nobody wants more.
fn read_on(mut rest: Rest<File>) -> io::Result<(Receiver<io::Result<Block>>, Sender<Block>)> {
    let (to_look_at, filled) = bounded(BLOCKS_AHEAD);
    let (empty, to_fill) = bounded::<Block>(2 * BLOCKS_AHEAD);
    for _ in 0..BLOCKS_AHEAD {
        empty.send(Block::new()).expect("its other end is here");
    }
    thread::Builder::new().name("ringpost-read".into()).spawn(move || {
        while let Ok(mut block) = to_fill.recv() {
            let read = block.read_from(&mut rest);
            let is_last = read.is_err() || block.filled == 0;
            if to_look_at.send(read.map(|()| block)).is_err() || is_last {
                return;
            }
        }
    })?;
    Ok((filled, empty))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is read is what is there, in whatever pieces, up to an end inside a sector too; and a file may be left in the middle.
    #[test]
    fn files_are_read_as_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        for length in [0, 1, 4096, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 5000, 7 * BLOCK_BYTES + 1, 9 << 20] {
            let bytes: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
            std::fs::write(&path, &bytes).unwrap();
            for piece in [777_777, 3 * BLOCK_BYTES] {
                let (mut found, mut buffer) = (Vec::new(), vec![0; piece]);
                let mut file = open(&path).unwrap();
                loop {
                    let count = file.read(&mut buffer).unwrap();
                    found.extend_from_slice(&buffer[..count]);
                    if count == 0 {
                        break;
                    }
                }
                assert!(found == bytes, "{length} bytes in pieces of {piece}");
                assert_eq!(file.read(&mut buffer).unwrap(), 0, "an end stays one");
            }
            let mut file = open(&path).unwrap();
            let _ = file.read(&mut [0; 100]).unwrap();
        }
        std::fs::remove_file(&path).unwrap();
        assert_eq!(open(&path).err().unwrap().kind(), io::ErrorKind::NotFound);
    }

    /// QUE-10: a file that gives less at a time is read to its end all the same, and one that ends too early is an error, not shorter.
    #[test]
    fn less_than_asked_for_is_not_the_end() {
        struct Sectors(usize);
        impl Read for Sectors {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                let count = self.0.min(DISK_ALIGN_BYTES).min(buffer.len());
                self.0 -= count;
                buffer[..count].fill(7);
                Ok(count)
            }
        }
        let length = BLOCK_BYTES + 5000;
        let mut block = Block::new();
        let mut rest = Rest { file: Sectors(length), rest_bytes: length as u64 };
        let mut found = 0;
        while block.read_from(&mut rest).map(|()| block.filled).unwrap() > 0 {
            found += block.bytes().iter().filter(|&&byte| byte == 7).count();
        }
        assert_eq!(found, length);
        let mut rest = Rest { file: Sectors(length), rest_bytes: length as u64 + 1 };
        block.read_from(&mut rest).unwrap();
        assert_eq!(block.read_from(&mut rest).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
