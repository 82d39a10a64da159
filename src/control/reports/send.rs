//! How a TLS report gets to whoever wants it: by the relay's own queue, or to a web server (RFC 8460 5.3, 5.4).

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use reqwest::{Client, header};
use tokio::sync::oneshot;

use crate::base::limits;
use crate::base::time::UnixMs;
use crate::config::Settings;
use crate::control::resolver::{Found, Lookups, ResolverSettings, build};
use crate::control::web;
use crate::mail::envelope::Envelope;
use crate::mail::parameters::RecipientParameters;
use crate::mail::tls_report::{About, write_letter};
use crate::route::reports::record::{Destination, destinations};
use crate::runtime::{Injection, Shards};
use crate::shard::{Origin, Receipt};
use crate::smtp::reply::Reply;

/// What a packed document is called (RFC 8460 6.5).
const MEDIA_TYPE: &str = "application/tlsrpt+gzip";

/// DNS and web servers.
pub(super) struct Ways {
    lookups: Lookups,
    web: Result<Client, Box<str>>,
    /// The shard that gets the next letter, before the count of shards is taken off it.
    turn: AtomicUsize,
}

/// One report on its way.
pub(super) struct Post {
    letter: Option<Letter>,
    web: Vec<Box<str>>,
    packed: Vec<u8>,
}

struct Letter {
    from: Box<str>,
    to: Vec<Box<str>>,
    text: Vec<u8>,
}

impl Post {
    /// A packed document for its destinations.
    pub(super) fn new(about: &About<'_>, from: &str, packed: Vec<u8>, to: Vec<Destination>, now: UnixMs) -> Post {
        let (mut mailboxes, mut web) = (Vec::new(), Vec::new());
        for destination in to {
            match destination {
                Destination::Mail(mailbox) => mailboxes.push(mailbox),
                Destination::Web(url) => web.push(url),
            }
        }
        let letter = (!mailboxes.is_empty()).then(|| {
            let to: Vec<&str> = mailboxes.iter().map(|mailbox| &**mailbox).collect();
            let text = write_letter(about, from, &to, now, &packed);
            Letter { from: from.into(), to: mailboxes, text }
        });
        Post { letter, web, packed }
    }
}

/// Who got it; and who did not, and why.
type Outcome = (Vec<Destination>, Vec<(Destination, Box<str>)>);

impl Ways {
    /// Call it inside a tokio runtime. The error: no DNS.
    pub(super) fn open(settings: &Settings) -> Result<Ways, Box<str>> {
        let dns = ResolverSettings::of(settings, false);
        let lookups = build(&dns).map_err(|error| format!("no DNS: {error}"))?;
        let longest = Duration::from_millis(limits::TLS_REPORT_POST_MS);
        let web = web::client(&settings.tls.roots, settings.route.allow_private, lookups.resolver(), longest);
        Ok(Ways { lookups, web: web.map_err(Box::from), turn: AtomicUsize::new(0) })
    }

    /// Where a domain wants its report; `None`: nowhere.
    pub(super) async fn destinations(&self, domain: &str) -> Result<Option<Vec<Destination>>, Box<str>> {
        let name = format!("_smtp._tls.{domain}");
        match self.lookups.texts(&name).await {
            Found::Some(texts, _) => Ok(destinations(texts.iter().map(Vec::as_slice))),
            Found::None { .. } => Ok(None),
            Found::Failed(why) => Err(format!("{name}: {why}").into()),
        }
    }

    /// Sends it to all at once.
    pub(super) async fn send(&self, shards: &Shards, post: Post) -> Outcome {
        let Post { letter, web, packed } = post;
        let (mut sent, mut failed) = (Vec::new(), Vec::new());
        if let Some(letter) = letter {
            let to: Vec<Destination> = letter.to.iter().cloned().map(Destination::Mail).collect();
            match self.mail(shards, letter).await {
                Ok(()) => sent.extend(to),
                Err(why) => failed.extend(to.into_iter().map(|to| (to, why.clone()))),
            }
        }
        for url in web {
            match self.post(&url, packed.clone()).await {
                Ok(()) => sent.push(Destination::Web(url)),
                Err(why) => failed.push((Destination::Web(url), why)),
            }
        }
        (sent, failed)
    }

    /// Gives a letter to the queue, which answers for it from then on. Nobody is told if it cannot be delivered.
    async fn mail(&self, shards: &Shards, letter: Letter) -> Result<(), Box<str>> {
        let mut envelope = Envelope::new();
        envelope.set_sender(letter.from.as_bytes());
        for to in &letter.to {
            envelope.push_recipient(to.as_bytes());
            envelope.set_recipient_parameters(&RecipientParameters { notify: b"NEVER", orcpt: b"" });
        }
        let (fate, wait) = oneshot::channel();
        let reply = Box::new(move |outcome: Result<Receipt, Reply>| {
            // Nobody waits any more if the relay stops.
            let _ = fate.send(outcome.map(|_| ()));
        });
        let shard = self.turn.fetch_add(1, Ordering::Relaxed) % shards.count();
        shards.inject(shard, Injection { origin: Origin::Own, envelope, body: letter.text, reply });
        match wait.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(refusal)) => Err(refusal.text().into()),
            // It may be in the queue, or not: it counts as sent.
            Err(_) => Ok(()),
        }
    }

    async fn post(&self, url: &str, packed: Vec<u8>) -> Result<(), Box<str>> {
        let web = self.web.as_ref().map_err(Clone::clone)?;
        let request = web.post(url).header(header::CONTENT_TYPE, MEDIA_TYPE).body(packed);
        let answer = request.send().await.map_err(|error| Box::<str>::from(web::reason(&error)))?;
        match answer.status() {
            status if status.is_success() => Ok(()),
            status => Err(format!("the answer is {}", status.as_u16()).into()),
        }
    }
}
