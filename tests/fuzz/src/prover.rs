//! What we say to a next hop that wants to know who we are: whatever it asks, what is said is bounded, passwords are said as the mechanisms
//! have it, and SCRAM ends well only with who knows the password, too (AUT-10).

use ringpost::base::limits::AUTH_CHALLENGE_MAX_BYTES;
use ringpost::control::auth::fuzzed::Proving;
use ringpost::smtp::auth::{ExchangeState, Mechanism, ProofAnswer, Said};

const NONCE: &str = "fuzz";

/// The first line is that of our credentials, the others are what the next hop asks; `!` is the right word of one that knows the password.
pub fn run(data: &[u8]) {
    let mut lines = data.split(|&b| b == b'\n');
    let Ok(credentials) = str::from_utf8(lines.next().unwrap_or_default()) else { return };
    let Ok(mut proving) = Proving::with(credentials) else { return };
    let (user, password) = credentials.split_once(':').expect("they were read");
    let challenges: Vec<&[u8]> = lines.collect();
    let (text, _) = said(proving.answer(Mechanism::Plain, None, None)).expect("it fits");
    assert_eq!(text, format!("\0{user}\0{password}"));
    let mut state = None;
    for (challenge, expected) in challenges.iter().zip([Some(user), Some(password), None]) {
        let Some((text, more)) = said(proving.answer(Mechanism::Login, Some(challenge), state)) else {
            assert_eq!(expected, None);
            break;
        };
        assert_eq!(Some(&*text), expected);
        state = more.0;
    }
    // A next hop may keep us busy so long, a fuzzer not.
    let heavy = |text: &[u8]| text.split(|b| !b.is_ascii_digit()).any(|digits| digits.len() > 4);
    if !challenges.iter().any(|challenge| heavy(challenge)) {
        scram(&mut proving, &challenges);
    }
}

fn scram(proving: &mut Proving, challenges: &[&[u8]]) {
    let Some((first, (mut state, _))) = said(proving.begin_scram(NONCE)) else { return };
    let bare = first.strip_prefix("n,,").expect("no channel is bound");
    assert!(bare.starts_with("n=") && bare.ends_with(",r=fuzz") && bare.matches(',').count() == 1);
    let mut verdict: Option<String> = None;
    for challenge in challenges {
        let right = verdict.as_deref().filter(|_| *challenge == b"!");
        let challenge = right.map_or(*challenge, str::as_bytes);
        let Some((text, (more, complete))) = said(proving.answer(Mechanism::ScramSha256, Some(challenge), state))
        else {
            assert_eq!(right, None, "who knows the password is believed");
            return;
        };
        if let Some(verdict) = &verdict {
            assert!(complete && text.is_empty());
            // As bytes: what cannot be told apart in base64 is the same.
            return assert_eq!(challenge, verdict.as_bytes(), "who does not know it is not");
        }
        assert!(!complete);
        let challenge = str::from_utf8(challenge).expect("it was read");
        let parts: Vec<&str> = challenge.splitn(4, ',').collect();
        let [nonce, salt, rounds] =
            ["r=", "s=", "i="].map(|name| parts.iter().find_map(|part| part.strip_prefix(name)));
        let (nonce, salt) = (nonce.expect("a nonce"), salt.expect("a salt"));
        let rounds: u32 = rounds.expect("rounds").parse().expect("a number");
        assert!(nonce.starts_with(NONCE) && rounds >= 4096);
        let (without_proof, proof) = text.rsplit_once(",p=").expect("a proof");
        assert_eq!((without_proof, proof.len()), (&*format!("c=biws,r={nonce}"), 44));
        verdict = Some(proving.verdict(&decoded(salt), rounds, &format!("{bare},{challenge},{without_proof}")));
        state = more;
    }
}

/// What there is to say, and what goes on. `None`: nothing.
fn said(answer: ProofAnswer) -> Option<(String, (Option<ExchangeState>, bool))> {
    match answer {
        ProofAnswer::Say(Said { text, state, complete }) => {
            assert!(text.len() <= AUTH_CHALLENGE_MAX_BYTES, "{} bytes", text.len());
            Some((String::from_utf8(text.to_vec()).expect("credentials are texts"), (state, complete)))
        }
        ProofAnswer::Impossible(why) => {
            assert!(why.starts_with("4.7.0 "), "{why}");
            None
        }
    }
}

/// Base64, six bits at a time.
fn decoded(text: &str) -> Vec<u8> {
    let alphabet = ('A'..='Z').chain('a'..='z').chain('0'..='9').chain(['+', '/']).collect::<String>();
    let (mut bits, mut count, mut bytes) = (0u32, 0, Vec::new());
    for c in text.trim_end_matches('=').chars() {
        bits = bits << 6 | alphabet.find(c).expect("it was read") as u32;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    bytes
}
