//! What the shard sees of TLS for the reports to domains (RPT-01): of each session with a mail host, and of each answer of DNS that
//! keeps one from being opened. Nothing where no reports are sent, and nothing for each message.
//!
//! A session counts once for each domain whose mail goes over it, since domains with the same hosts share sessions; one that carries no mail
//! counts for the domain whose mail was first in line when it was dialled. What was seen leaves in batches, for one place of the whole relay
//! to add up.

use std::net::IpAddr;

use crate::base::limits;
use crate::base::time::Now;
use crate::mail::date::Day;
use crate::route::Answer;
use crate::route::reports::{Fault, Seen, Session, Watched, of_answer};
use crate::route::safety::Safety;
use crate::schedule::destination::DestinationId;
use crate::schedule::site::{JobId, SiteId};
use crate::shard::conns::Outbound;
use crate::shard::timers::Timer;
use crate::shard::{Effect, Shard};
use crate::smtp::client::{SessionEnd, TlsWish};

/// A session that is watched.
pub(super) struct Watch {
    /// For whom it was opened.
    of: Watched,
    /// Our end.
    local: Option<IpAddr>,
    /// It is ready, and this is wrong with its TLS, if anything is.
    ready: Option<Option<Fault>>,
    /// The destinations for which it was counted, with their generations.
    told: Vec<(DestinationId, u32)>,
}

impl Shard {
    /// For whom a session to a site is counted that is being dialled.
    pub(super) fn watch_session(&mut self, site: SiteId) -> Option<Box<Watch>> {
        self.settings.tls.reports.as_ref()?;
        let job = self.sites.next_job(site)?;
        let of = self.watched(self.backlog.jobs[job as usize].destination)?;
        Some(Box::new(Watch { of, local: None, ready: None, told: Vec::new() }))
    }

    fn watched(&self, destination: DestinationId) -> Option<Watched> {
        let destination = &self.sites.destinations[destination as usize];
        let domain = destination.decision.reported_domain()?.into();
        Some(Watched { domain, sts: destination.sts.clone() })
    }

    /// Our end of a session that stands. Behind a proxy it is the address that the source has there, if we know it.
    pub(super) fn note_local(&self, outbound: &mut Outbound, local: Option<IpAddr>) {
        let Some(watch) = &mut outbound.watch else { return };
        let source = &self.settings.sources[usize::from(self.sites.table[outbound.site as usize].source)];
        watch.local = match source.proxy {
            None => local,
            Some(_) => source.address_for(outbound.address.ip()).flatten(),
        };
    }

    /// A session is ready for mail: it will be counted with the mail that it carries.
    pub(super) fn see_ready(&self, outbound: &mut Outbound) {
        let fault = match outbound.client.is_secured() {
            true => outbound.tested_fault(),
            false => Some(Fault::NO_STARTTLS),
        };
        match &mut outbound.watch {
            // In clear on purpose, for a handshake failed before, which was counted.
            watch if !outbound.client.is_secured() && outbound.wish == TlsWish::Never => *watch = None,
            Some(watch) => watch.ready = Some(fault),
            None => {}
        }
    }

    /// A session is to carry a job; counts it for the job's domain, once.
    pub(super) fn see_job(&mut self, now: Now, outbound: &mut Outbound, job: JobId, effects: &mut Vec<Effect>) {
        let Some(watch) = &mut outbound.watch else { return };
        let destination = self.backlog.jobs[job as usize].destination;
        let told = (destination, self.sites.destinations[destination as usize].generation);
        let Some(fault) = watch.ready.filter(|_| !watch.told.contains(&told)) else { return };
        if watch.told.len() < limits::TLS_REPORT_DOMAINS_OF_SESSION_MAX {
            watch.told.push(told);
            let of = self.watched(destination);
            self.count_session(now, outbound, of, fault, effects);
        }
    }

    /// A session is over; one that carried no mail is counted for whom it was opened.
    pub(super) fn see_end(&mut self, now: Now, outbound: &mut Outbound, end: SessionEnd, effects: &mut Vec<Effect>) {
        let Some(watch) = outbound.watch.take_if(|watch| watch.told.is_empty()) else { return };
        let fault = match (end, watch.ready) {
            (_, Some(fault)) => fault,
            (SessionEnd::NoTls, None) => Some(Fault::NO_STARTTLS),
            (SessionEnd::TlsFailed, None) => match outbound.fault {
                // Too slow, or the network: nothing that the domain could mend.
                None => return,
                fault => fault,
            },
            (_, None) if outbound.client.is_secured() => outbound.tested_fault(),
            // It never came to TLS.
            (_, None) => return,
        };
        let of = Some(watch.of.clone());
        outbound.watch = Some(watch);
        self.count_session(now, outbound, of, fault, effects);
    }

    fn count_session(
        &mut self,
        now: Now,
        outbound: &Outbound,
        of: Option<Watched>,
        fault: Option<Fault>,
        effects: &mut Vec<Effect>,
    ) {
        let (Some(of), Some(watch)) = (of, &outbound.watch) else { return };
        let host = self.sites.table[outbound.site as usize].hosts.name(outbound.address).unwrap_or_else(|| "".into());
        let session = Session {
            day: Day::of(now.wall),
            safety: &outbound.safety,
            fault,
            host: &host,
            sending: watch.local,
            receiving: outbound.address.ip(),
            hello: outbound.client.name(),
        };
        self.add_seen(now, of.seen(&session), effects);
    }

    /// DNS said something of a destination.
    pub(super) fn see_answer(
        &mut self,
        now: Now,
        destination: DestinationId,
        answer: &Answer,
        effects: &mut Vec<Effect>,
    ) {
        let Answer::Mail { hosts, sts, .. } = answer else { return };
        let entry = &mut self.sites.destinations[destination as usize];
        entry.sts.clone_from(sts);
        if self.settings.tls.reports.is_none() {
            return;
        }
        let Some(domain) = entry.decision.reported_domain() else { return };
        let hosts = hosts.iter().map(|host| (&*host.name, &host.tls));
        let seen = of_answer(Day::of(now.wall), domain, hosts, sts.as_deref());
        self.add_seen(now, seen, effects);
    }

    fn add_seen(&mut self, now: Now, seen: Vec<Seen>, effects: &mut Vec<Effect>) {
        if self.tls_seen.is_empty() && !seen.is_empty() {
            self.wheel.insert(now.mono.plus_ms(limits::TLS_REPORT_BATCH_MS), Timer::TlsSeen);
        }
        self.tls_seen.extend(seen);
        if self.tls_seen.len() >= limits::TLS_REPORT_BATCH {
            self.hand_over_seen(effects);
        }
    }

    /// What was seen so far leaves the shard.
    pub(super) fn hand_over_seen(&mut self, effects: &mut Vec<Effect>) {
        if !self.tls_seen.is_empty() {
            effects.push(Effect::TlsSeen(std::mem::take(&mut self.tls_seen)));
        }
    }
}

impl Outbound {
    /// What a policy that is tested would not have let pass.
    fn tested_fault(&self) -> Option<Fault> {
        match self.safety {
            Safety::Tested { named: false } => Some(Fault::UNNAMED),
            Safety::Tested { named: true } => self.fault,
            _ => None,
        }
    }
}
