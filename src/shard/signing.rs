//! DKIM in the shard: which messages are signed, how their text gets to whoever signs (BLK-03, BLK-04), and which are not taken for
//! want of what is to be signed (BLK-05).
//!
//! Signed is what comes from clients that may relay, users included, and the shard's own reports; never what strangers send
//! through the alias table. Without keys a message costs one look at the settings.

use crate::base::time::Now;
use crate::config::Role;
use crate::mail::dkim::{Signed, Signing};
use crate::mail::text::Form;
use crate::schedule::fair::TenantId;
use crate::shard::Shard;
use crate::shard::conns::Inbound;
use crate::smtp::data::Unstuffer;
use crate::smtp::reply::{self, Reply};

/// A message that is signed while it comes.
pub(super) struct Incoming {
    signing: Signing,
    /// What it is seen through, if it comes in wire form.
    view: Option<Unstuffer>,
}

impl Incoming {
    fn feed(&mut self, piece: &[u8]) {
        match &mut self.view {
            None => self.signing.feed(piece),
            Some(view) => view.view(piece).for_each(|part| self.signing.feed(part)),
        }
    }
}

impl Shard {
    /// A message of a tenant begins that is signed if its author has a key; `None` if there are no keys at all.
    pub(super) fn begin_signing(&self, form: Form, tenant: TenantId) -> Option<Box<Incoming>> {
        let ring = self.settings.dkim.ring.as_ref()?;
        let view = (form == Form::Wire).then(Unstuffer::new);
        Some(Box::new(Incoming { signing: Signing::new(ring.clone(), tenant), view }))
    }

    /// The next piece of a client's message. Keys that came with a reload while it was coming are for the next one.
    pub(super) fn feed_signing(&mut self, inbound: &mut Inbound, piece: &[u8]) {
        if inbound.signing.is_none() && inbound.role != Role::Null && self.settings.dkim.ring.is_some() {
            let (first, form) = inbound.server.begins_with(piece);
            if first && inbound.server.may_relay() {
                inbound.signing = self.begin_signing(form, inbound.share.tenant);
            }
        }
        if let Some(incoming) = &mut inbound.signing {
            incoming.feed(piece);
        }
    }

    /// The message is whole; counts one that ought to have a signature and has none.
    pub(super) fn end_signing(&mut self, incoming: Option<Box<Incoming>>) -> Option<Signed> {
        let signed = incoming?.signing.end();
        self.counters.unsigned_messages += u64::from(signed.is_none());
        signed
    }

    /// Why a message of a tenant is not taken, now that its signature is known: it sends marketing, and receivers could not offer to
    /// unsubscribe from this with one click (BLK-05).
    pub(super) fn one_click_refusal(&self, tenant: TenantId, signed: Option<&Signed>) -> Option<Reply> {
        let tenant = self.settings.tenants.get(usize::from(tenant).checked_sub(1)?)?;
        let offered = signed.is_some_and(Signed::offers_one_click);
        (tenant.one_click && !offered).then_some(reply::NO_ONE_CLICK)
    }

    /// Puts signatures on top of a whole text of our own in wire form.
    pub(super) fn sign_own(&mut self, now: Now, wire: &mut Vec<u8>) {
        let Some(mut incoming) = self.begin_signing(Form::Wire, TenantId::default()) else { return };
        incoming.feed(wire);
        let Some(signed) = self.end_signing(Some(incoming)) else { return };
        let mut prefix = Vec::new();
        if signed.write(&mut prefix, now.wall) {
            self.counters.signed_messages += 1;
            wire.splice(0..0, prefix);
        }
    }

    /// Takes the whole text of a message in plain form.
    pub(super) fn sign_whole(&mut self, text: &[u8], tenant: TenantId) -> Option<Signed> {
        let mut incoming = self.begin_signing(Form::Plain, tenant)?;
        incoming.feed(text);
        self.end_signing(Some(incoming))
    }
}
