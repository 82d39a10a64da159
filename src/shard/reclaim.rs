//! Reclaim: the last messages of an old segment are copied forward, so that the segment can be used again.
//!
//! A copy is an accepting record with the message's old name, behind new records of those parts of its body that stand in the
//! segment to be emptied, made one at a time so that a long message needs no more memory than a short one. Other parts stay where
//! they are. The old place is given up only when the copy is durable; a message that settles meanwhile takes both places with it.
//! Also here: what recovery found becomes live again.

use std::collections::VecDeque;

use crate::base::bytes::Slice;
use crate::base::ids::{MessageId, Position};
use crate::base::time::{Mono, Now, UnixMs};
use crate::mail::parameters::ParameterBlock;
use crate::queue::record::AcceptView;
use crate::queue::{
    ChunkRef, Commit, CopyOf, Draft, DraftRecipient, LogRefusal, Place, RecipientState, RecoveredMessage, Straggler,
    Ticket,
};
use crate::schedule::backoff::Backoff;
use crate::schedule::fair::Share;
use crate::schedule::list::NO_JOB;
use crate::shard::backlog::{Chunks, JOB_RECIPIENTS_MAX, Job, JobState, Message, MessageSlot};
use crate::shard::reading::Reading;
use crate::shard::terms::{self, Terms};
use crate::shard::timers::Timer;
use crate::shard::{Effect, Shard};

/// Messages being copied at a time.
const COPIES_MAX: usize = 32;

/// How often it is looked for something to copy.
const LOOK_EVERY_MS: u64 = 100;

/// After the disk could not give a part of a message, it is looked again no sooner than this; later if the part was damaged, which
/// an operator is told each time: nothing behind it can be used again.
const LOOK_AGAIN_MS: u64 = 5000;
const LOOK_AGAIN_DAMAGED_MS: u64 = 60_000;

/// A segment is watched for so long before it is emptied by copying. If a sixteenth of it goes meanwhile, it is left to that.
const WATCHED_MS: u64 = 1000;

/// Messages found at one look at most: the next look finds the others.
const FOUND_MAX: usize = 16 << 10;

/// A message on its way to its new place.
struct Copy {
    message: MessageSlot,
    id: MessageId,
    place: Place,
    /// The segment that is emptied.
    life: u32,
    old: Chunks,
    new: Vec<ChunkRef>,
}

impl Copy {
    /// Sizes of what is appended for it.
    fn record_bytes(&self) -> impl Iterator<Item = u32> {
        let parts = self.old.iter().filter(|chunk| chunk.position.life() == self.life);
        parts.map(ChunkRef::record_bytes).chain([self.place.record_bytes()])
    }

    /// Parts that were copied.
    fn made(&self) -> Vec<ChunkRef> {
        apart(&self.new, &self.old)
    }

    /// The chunk that is copied next; the accepting record if there is none.
    fn next_chunk(&self) -> Option<ChunkRef> {
        self.old.get(self.new.len()).copied()
    }

    /// Where what is copied next stands, and its size.
    fn awaited(&self) -> (Position, u32) {
        match self.next_chunk() {
            Some(chunk) => (chunk.position, chunk.record_bytes()),
            None => (self.place.position, self.place.record_bytes()),
        }
    }
}

/// A copy that was appended and is not durable yet.
struct Moved {
    ticket: Ticket,
    message: MessageSlot,
    id: MessageId,
    place: Place,
    chunks: Chunks,
    /// Those of them that were copied.
    made: Vec<ChunkRef>,
}

/// Those parts that others took the place of.
fn apart(parts: &[ChunkRef], others: &[ChunkRef]) -> Vec<ChunkRef> {
    parts.iter().zip(others).filter(|(part, other)| part != other).map(|(part, _)| *part).collect()
}

/// The segment to be emptied as it was a while ago.
struct Watched {
    life: u32,
    live_bytes: u64,
    since: Mono,
}

/// What reclaim is doing.
#[derive(Default)]
pub(super) struct Reclaim {
    /// The segment to be emptied.
    life: u32,
    /// What stands in it and is still to be copied.
    found: Vec<(MessageSlot, MessageId)>,
    copies: Vec<Copy>,
    moved: VecDeque<Moved>,
    next_look: Mono,
    watched: Option<Watched>,
    /// There was nothing to copy, and nothing has come to the shard since then.
    at_rest: bool,
}

impl Shard {
    pub(super) fn next_reclaim_due(&self) -> Mono {
        // With something found, copies are under way, and the end of one is what comes next.
        let waits = self.reclaim.at_rest || !self.reclaim.found.is_empty() || self.leaves_copying();
        if waits { Mono::NEVER } else { self.reclaim.next_look }
    }

    /// True while the relay stops: what is left stays where it is, unless verdicts need the room.
    fn leaves_copying(&self) -> bool {
        self.draining.is_some() && !self.log.holds_verdicts()
    }

    /// Something came that may have changed the log: it is worth another look.
    pub(super) fn wake_reclaim(&mut self) {
        self.reclaim.at_rest = false;
    }

    /// Looks for stragglers now and then, and for copies that became durable.
    pub(super) fn reclaim(&mut self, now: Now, effects: &mut Vec<Effect>) {
        self.finish_moves();
        if self.leaves_copying() {
            return;
        }
        if self.reclaim.found.is_empty() && !self.reclaim.at_rest && now.mono >= self.reclaim.next_look {
            self.reclaim.next_look = now.mono.plus_ms(LOOK_EVERY_MS);
            self.look_for_stragglers(now.mono);
        }
        self.begin_copies(effects);
        if self.reclaim.copies.is_empty() {
            self.log.hurry_copies();
        }
    }

    fn begin_copies(&mut self, effects: &mut Vec<Effect>) {
        while self.reclaim.copies.len() + self.reclaim.moved.len() < COPIES_MAX {
            let Some((slot, id)) = self.reclaim.found.pop() else { return };
            let message = self.backlog.messages.get(slot as usize).filter(|message| message.id == id);
            let Some(message) = message.filter(|message| !message.copying) else { continue };
            let (place, old) = (message.place, message.chunks.clone());
            let copy = Copy { message: slot, id, place, life: self.reclaim.life, old, new: Vec::new() };
            let all = self.reclaim.copies.iter().chain([&copy]);
            if !self.log.has_room_for_copies(all.flat_map(Copy::record_bytes)) {
                // Half a copy would be a waste of what room there is. The others may be as long.
                self.reclaim.found.clear();
                return;
            }
            self.backlog.messages[slot as usize].copying = true;
            self.go_on_copying(copy, None, effects);
        }
    }

    fn look_for_stragglers(&mut self, now: Mono) {
        let straggler = self.log.straggler();
        self.reclaim.at_rest = straggler.is_none();
        let Some(straggler) = straggler else { return };
        if !straggler.urgent && self.empties_itself(now, &straggler) {
            return;
        }
        let life = straggler.life;
        self.reclaim.life = life;
        let stands_there = |message: &Message| {
            message.place.position.life() == life || message.chunks.iter().any(|c| c.position.life() == life)
        };
        let messages = self.backlog.messages.iter();
        let there = messages.filter(|(_, message)| !message.copying && message.committed && stands_there(message));
        self.reclaim.found.extend(there.map(|(slot, message)| (slot as MessageSlot, message.id)).take(FOUND_MAX));
    }

    /// True until it was seen for a while that a segment is not about to be empty without any copying.
    fn empties_itself(&mut self, now: Mono, straggler: &Straggler) -> bool {
        let &Straggler { life, live_bytes, .. } = straggler;
        match self.reclaim.watched.as_ref().filter(|before| before.life == life) {
            Some(before) if now.ms_since(before.since) < WATCHED_MS => true,
            Some(before) if live_bytes * 17 > before.live_bytes * 16 => false,
            _ => {
                self.reclaim.watched = Some(Watched { life, live_bytes, since: now });
                true
            }
        }
    }

    /// A part of a message came from disk; `None` if it could not be read, or is `damaged`.
    pub(super) fn copy_part_came(
        &mut self,
        now: Mono,
        (message, position): (MessageSlot, Position),
        part: Option<Slice>,
        damaged: bool,
        effects: &mut Vec<Effect>,
    ) {
        // The message may have settled meanwhile, and another one, being copied too, have its slot.
        let awaits_it = |copy: &Copy| copy.message == message && copy.awaited().0 == position;
        let Some(at) = self.reclaim.copies.iter().position(awaits_it) else { return };
        let copy = self.reclaim.copies.swap_remove(at);
        if let Some(part) = part {
            return self.go_on_copying(copy, Some(part), effects);
        }
        // It stays where it is. A disk may do better, and what looks like damage may have come from the way here.
        self.log.drop_chunks(&copy.made());
        let message = self.backlog.messages.get_mut(copy.message as usize).filter(|message| message.id == copy.id);
        if let Some(message) = message {
            message.copying = false;
            let wait_ms = if damaged { LOOK_AGAIN_DAMAGED_MS } else { LOOK_AGAIN_MS };
            self.reclaim.next_look = now.plus_ms(wait_ms).max(self.reclaim.next_look);
        }
    }

    /// Copies part after part until one must be read from disk, or all are appended.
    fn go_on_copying(&mut self, mut copy: Copy, mut part: Option<Slice>, effects: &mut Vec<Effect>) {
        loop {
            let message = self.backlog.messages.get(copy.message as usize);
            if !message.is_some_and(|message| message.id == copy.id && message.copying) {
                // It settled meanwhile.
                self.log.drop_chunks(&copy.made());
                return;
            }
            let stay = copy.old[copy.new.len()..].iter().take_while(|chunk| chunk.position.life() != copy.life);
            copy.new.extend(stay);
            let next = copy.next_chunk();
            let hot = part.take().or_else(|| match next {
                Some(chunk) => self.log.chunk(&chunk),
                None => self.log.record(&copy.place),
            });
            let Some(bytes) = hot else {
                let (slot, (position, record_bytes)) = (copy.message, copy.awaited());
                self.reclaim.copies.push(copy);
                self.read(Reading::Copy { message: slot, position }, position, record_bytes, effects);
                return;
            };
            let appended = match next {
                Some(_) => self.log.copy_chunk(&bytes).map(|chunk| copy.new.push(chunk)),
                None => self.append_copy(&mut copy, &bytes),
            };
            if let Err(refusal) = appended {
                self.log.drop_chunks(&copy.made());
                self.backlog.messages[copy.message as usize].copying = false;
                if refusal == LogRefusal::Full {
                    // So will the others be.
                    self.reclaim.found.clear();
                }
                return;
            }
            if next.is_none() {
                return;
            }
        }
    }

    /// All parts are appended: the accepting record follows, with what is known of each recipient now.
    fn append_copy(&mut self, copy: &mut Copy, record: &Slice) -> Result<(), LogRefusal> {
        let view = AcceptView::read(record).expect("the record was verified when it came");
        let mut recipients: Vec<DraftRecipient<'_>> = view
            .recipients()
            .map(|recipient| DraftRecipient {
                address: recipient.address,
                // What is in no job is settled, and its verdict stands in the log or waits for a segment.
                state: match recipient.state {
                    RecipientState::Open => RecipientState::Delivered,
                    terminal => terminal,
                },
                attempts: recipient.attempts,
                due: recipient.due,
                delay_reported: recipient.delay_reported,
            })
            .collect();
        for job in self.backlog.jobs_of(copy.message) {
            let Job { first, open, attempts, delay_reported, .. } = self.backlog.jobs[job as usize];
            for bit in (0..JOB_RECIPIENTS_MAX).filter(|bit| open & (1 << bit) != 0) {
                let recipient = &mut recipients[usize::from(first) + bit];
                recipient.state = RecipientState::Open;
                recipient.attempts = attempts;
                recipient.delay_reported = delay_reported;
            }
        }
        for owed in self.owed(copy.id) {
            // Its report is not durable: a copy that says so would lose it.
            recipients[owed as usize].state = RecipientState::Open;
        }
        let place = self.backlog.messages[copy.message as usize].place;
        let draft = Draft {
            copy_of: Some(CopyOf { id: copy.id, copies: place.copies }),
            arrived: view.arrived,
            text: view.text,
            body_bytes: view.body_bytes,
            sender: view.sender(),
            recipients: &recipients,
            parameters: view.parameters().0,
            chunks: &copy.new,
            tail: &[&record[view.tail.clone()]],
        };
        let prefix = &record[view.prefix.clone()];
        let appended = self.log.append_accept(&draft, &mut |_, out| out.extend_from_slice(prefix))?;
        self.reclaim.moved.push_back(Moved {
            ticket: appended.ticket,
            message: copy.message,
            id: copy.id,
            place: appended.place,
            made: copy.made(),
            chunks: copy.new.as_slice().into(),
        });
        Ok(())
    }

    /// Copies that became durable take the place of what they are copies of.
    fn finish_moves(&mut self) {
        let mut at = 0;
        while let Some(moved) = self.reclaim.moved.get(at) {
            let outcome = self.log.outcome(&moved.ticket);
            if outcome == Commit::Pending {
                // So are those behind it.
                return;
            }
            let in_use =
                |job: u32| matches!(self.backlog.jobs[job as usize].state, JobState::Offered | JobState::Loading);
            let alive = self.backlog.messages.get(moved.message as usize).is_some_and(|message| message.id == moved.id);
            if alive && self.backlog.jobs_of(moved.message).any(in_use) {
                // Something is being read or sent from the old place. Nobody else waits for that.
                at += 1;
                continue;
            }
            let moved = self.reclaim.moved.remove(at).expect("it is there");
            let message =
                self.backlog.messages.get_mut(moved.message as usize).filter(|message| message.id == moved.id);
            match (outcome, message) {
                (Commit::Durable, Some(message)) => {
                    message.copying = false;
                    let place = std::mem::replace(&mut message.place, moved.place);
                    let chunks = std::mem::replace(&mut message.chunks, moved.chunks);
                    self.counters.copied_forward += 1;
                    self.log.settle(place, &apart(&chunks, &message.chunks));
                }
                (Commit::Durable, None) => self.log.settle(moved.place, &moved.made),
                (_, message) => {
                    if let Some(message) = message {
                        message.copying = false;
                    }
                    self.log.settle(moved.place, &moved.made);
                }
            }
        }
    }

    /// Makes a message live that recovery found in the spool.
    pub(super) fn adopt(&mut self, now: Now, recovered: RecoveredMessage) {
        let block = ParameterBlock(&recovered.parameters);
        let terms = Terms::of(block, recovered.arrived, self.settings.report.delay_ms);
        let expires = terms::expires(terms.as_deref(), now, recovered.arrived, self.settings.retry.expire_ms);
        // Its trace field tells who sent it, and so of whose part it is.
        let share = recovered.peer.map_or(Share::default(), |peer| self.settings.share_of(peer));
        let slot = self.backlog.messages.insert(Message {
            id: recovered.id,
            place: recovered.place,
            chunks: recovered.chunks.as_slice().into(),
            arrived: recovered.arrived,
            expires,
            share: terms::share(terms.as_deref(), share),
            terms,
            open_jobs: 0,
            first_job: NO_JOB,
            copying: false,
            committed: true,
        }) as MessageSlot;
        let source = self.draw_source(share.tenant);
        let most = self.settings.site.recipients.min(JOB_RECIPIENTS_MAX);
        let open = &recovered.recipients;
        let mut next = 0;
        while next < open.len() {
            let first = &open[next];
            let alike = open[next..].iter().take_while(|other| {
                ((other.index - first.index) as usize) < most
                    && (other.attempts, other.due, other.delay_reported)
                        == (first.attempts, first.due, first.delay_reported)
            });
            let stretch = block.stretch(first.index as usize);
            let sender = stretch.sender(&recovered.sender);
            let via = self.sites.router.via(share.tenant, sender);
            let terms = self.backlog.messages[slot as usize].terms.as_deref();
            let alike = alike.take_while(|other| (other.index as usize) < stretch.end);
            let addresses = alike.map(|recipient| &*recipient.address);
            let most = if stretch.is_by_member() { 1 } else { most };
            let (domain, needs, together) = terms::run(terms, sender, addresses, most);
            let held = terms.is_some_and(|terms| terms.held_until == Some(first.due));
            let mask = open[next..next + together].iter().fold(0, |mask, r| mask | 1u128 << (r.index - first.index));
            let routed = self.sites.add_job_of(domain, source, via, needs);
            let job = self.backlog.add_job(slot, routed, first.index as u16, mask, first.attempts);
            self.backlog.jobs[job as usize].delay_reported = first.delay_reported;
            if stretch.is_told() {
                self.tell_of_expansion(job);
            }
            let wait_ms = UnixMs(first.due.0) - now.wall;
            if wait_ms == 0 {
                self.make_ready(now.mono, job);
            } else {
                // A clock that went back must not make a message wait longer than a retry may, nor all of them until
                // the same moment (QUE-11).
                let retry = &self.settings.retry;
                let most_ms = retry.longest_ms * 5 / 4;
                let backoff = Backoff { first_ms: retry.first_ms, longest_ms: retry.longest_ms };
                let mut drawn_ms = || backoff.delay_ms(u32::from(first.attempts).max(1), &mut self.rng);
                let due = now.mono.plus_ms(if wait_ms <= most_ms || held { wait_ms } else { drawn_ms() });
                let timer = self.wheel.insert(due, Timer::Job(job));
                let entry = &mut self.backlog.jobs[job as usize];
                entry.state = JobState::Deferred;
                entry.timer = Some(timer);
            }
            next += together;
        }
    }
}
