//! From fields to a text: the header and MIME body of a message that was given as subject, text and HTML, and templates
//! filled in for one recipient after the other.
//!
//! MIME is mail-builder's, templates are minijinja's: strict (a name that is not known is an error), and bounded in steps and in
//! length. In HTML values are escaped, elsewhere they stand as they are. Neither a field's value nor what is filled into the
//! header of a raw text can hold line ends, so that nobody's name makes a field of its own, or ends the header. Pure but for the
//! clock and the random part of a Message-ID.

use std::collections::HashSet;
use std::io::{self, Write};

use mail_builder::MessageBuilder;
use mail_builder::headers::address::Address;
use mail_builder::headers::message_id::generate_message_id_header;
use mail_builder::headers::raw::Raw;
use mail_builder::headers::text::Text;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, Output, State, UndefinedBehavior, Value as Filled, escape_formatter};
use serde_json::{Map, Value};

use super::answer::Problem;
use super::request::{Letter, Recipient, named};
use crate::base::limits;
use crate::mail::envelope::Envelope;

/// Fields that are made from other members of the request, and say nothing when given twice.
const MADE_FIELDS: [&str; 10] = [
    "from",
    "to",
    "cc",
    "bcc",
    "subject",
    "mime-version",
    "content-type",
    "content-transfer-encoding",
    "received",
    "return-path",
];

/// The template that is a whole text, header and body.
const RAW: &str = "raw";

/// What stands for CR and LF of a value until it is known whether it went into a header: no characters (Unicode 23.7).
const MARKS: [(char, &str); 2] = [('\r', "\u{FDD0}"), ('\n', "\u{FDD1}")];

/// The text of a letter as it is given: for all its recipients.
pub(super) fn text(letter: &Letter<'_>, hostname: &str) -> Result<Vec<u8>, Problem> {
    match &letter.raw {
        Some(raw) => Ok(raw.as_bytes().to_vec()),
        None => compose(
            letter,
            letter.to.all().iter().map(Recipient::address),
            &mut |_, text| Ok(text.to_owned()),
            hostname,
        ),
    }
}

/// A message, or what is wrong with it.
pub(super) type Made = Result<(Envelope, Vec<u8>), Problem>;

/// A message of its own for each recipient of a letter with templates, one made after the other. What is wrong with all of them is an
/// error, what is wrong with one is its fate.
pub(super) fn each<'l>(
    letter: &'l Letter<'_>,
    hostname: &'l str,
    most_bytes: u64,
) -> Result<impl Iterator<Item = (&'l str, Made)>, Problem> {
    let templates = Templates::read(letter, most_bytes)?;
    Ok(letter.recipients().map(move |recipient| {
        let envelope = letter.envelope(std::iter::once(recipient.address()), hostname);
        let message = envelope.and_then(|envelope| Ok((envelope, templates.fill(letter, recipient, hostname)?)));
        (recipient.address(), message)
    }))
}

/// A letter's texts as templates, read once.
pub(super) struct Templates<'t> {
    environment: Environment<'t>,
    most_bytes: u64,
}

impl<'t> Templates<'t> {
    /// Reads them; `most_bytes` is the longest text that any of them may make.
    pub(super) fn read(letter: &'t Letter<'_>, most_bytes: u64) -> Result<Templates<'t>, Problem> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_fuel(Some(limits::TEMPLATE_STEPS_MAX));
        environment.set_formatter(write_value);
        environment.set_auto_escape_callback(|name| if name == "html" { AutoEscape::Html } else { AutoEscape::None });
        // Line ends are part of a text, at its end too.
        environment.set_syntax(
            SyntaxConfig::builder().keep_trailing_newline(true).build().expect("the delimiters are the usual"),
        );
        let members = [
            (RAW, letter.raw.as_deref()),
            ("subject", letter.subject.as_deref()),
            ("text", letter.text.as_deref()),
            ("html", letter.html.as_deref()),
        ];
        let texts = members.into_iter().filter_map(|(name, text)| Some((name.to_owned(), text?)));
        let fields = letter.headers.iter().map(|(name, value)| (format!("headers.{name}"), &**value));
        for (name, text) in texts.chain(fields) {
            let added = environment.add_template_owned(name.clone(), text.to_owned());
            added.map_err(|error| Problem::senseless(format!("the template {name}: {error}")))?;
        }
        Ok(Templates { environment, most_bytes })
    }

    /// The text for one recipient, whose values come before those of the letter.
    pub(super) fn fill(
        &self,
        letter: &Letter<'_>,
        recipient: &Recipient<'_>,
        hostname: &str,
    ) -> Result<Vec<u8>, Problem> {
        let mut values: Map<String, Value> = letter.substitutions.clone().unwrap_or_default();
        values.insert("address".into(), recipient.address().into());
        values.extend(recipient.values().into_iter().flatten().map(|(name, value)| (name.clone(), value.clone())));
        if letter.raw.is_some() {
            return unmarked(self.render(RAW, &values)?).map(String::into_bytes);
        }
        let mut fill = |name: &str, _: &str| self.render(name, &values);
        compose(letter, std::iter::once(recipient.address()), &mut fill, hostname)
    }

    fn render(&self, name: &str, values: &Map<String, Value>) -> Result<String, Problem> {
        let wrong = |error: minijinja::Error| Problem::senseless(format!("the template {name}: {error}"));
        let template = self.environment.get_template(name).map_err(wrong)?;
        let mut bounded = Bounded { text: Vec::new(), most_bytes: self.most_bytes };
        template.render_captured_to(Serde(values), &mut bounded).map_err(wrong)?;
        Ok(String::from_utf8(bounded.text).expect("templates make text"))
    }
}

/// Writes a value where a template names it; in a raw text with marks for its line ends.
fn write_value(out: &mut Output<'_>, state: &mut State<'_, '_>, value: &Filled) -> Result<(), minijinja::Error> {
    if state.name() != RAW {
        return escape_formatter(out, state, value);
    }
    let mut text = value.to_string();
    for (end, mark) in MARKS {
        if text.contains(end) {
            text = text.replace(end, mark);
        }
    }
    out.write_str(&text).map_err(minijinja::Error::from)
}

/// A filled raw text with the line ends that values have, of which none may stand in the header.
fn unmarked(text: String) -> Result<String, Problem> {
    if !MARKS.iter().any(|(_, mark)| text.contains(mark)) {
        return Ok(text);
    }
    let header = if text.starts_with("\r\n") { "" } else { text.split("\r\n\r\n").next().unwrap_or_default() };
    if MARKS.iter().any(|(_, mark)| header.contains(mark)) {
        return Err(Problem::senseless("a value that is filled into the header holds line ends"));
    }
    Ok(MARKS.iter().fold(text, |text, (end, mark)| text.replace(mark, &end.to_string())))
}

/// Takes so many bytes and no more.
struct Bounded {
    text: Vec<u8>,
    most_bytes: u64,
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if (self.text.len() + bytes.len()) as u64 > self.most_bytes {
            return Err(io::Error::other("the text is too long"));
        }
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Gives a member's or a field's text, given its name and what stands in the letter.
type Fill<'f> = dyn FnMut(&str, &str) -> Result<String, Problem> + 'f;

fn compose<'t>(
    letter: &Letter<'_>,
    to: impl Iterator<Item = &'t str>,
    fill: &mut Fill<'_>,
    hostname: &str,
) -> Result<Vec<u8>, Problem> {
    let mut builder = MessageBuilder::new().from(address(&letter.from)?);
    let to: Vec<Address<'_>> = to.map(address).collect::<Result<_, _>>()?;
    if !to.is_empty() {
        builder = builder.to(Address::new_list(to));
    }
    if !letter.cc.all().is_empty() && !letter.is_template() {
        let cc: Vec<Address<'_>> = letter.cc.all().iter().map(|cc| address(cc.address())).collect::<Result<_, _>>()?;
        builder = builder.cc(Address::new_list(cc));
    }
    if let Some(subject) = &letter.subject {
        builder = builder.subject(Text::new(one_line("subject", fill("subject", subject)?)?));
    }
    let mut has_message_id = false;
    let mut names = HashSet::new();
    for (name, value) in &letter.headers {
        if !names.insert(name.to_ascii_lowercase()) {
            return Err(Problem::senseless(format!("the field {name} stands there twice")));
        }
        let value = one_line(name, fill(&format!("headers.{name}"), value)?)?;
        has_message_id |= name.eq_ignore_ascii_case("message-id");
        builder = builder.header(field_name(name)?, Text::new(value));
    }
    if !has_message_id {
        let mut id = Vec::new();
        generate_message_id_header(&mut id, hostname);
        builder = builder.header("Message-ID", Raw::new(String::from_utf8_lossy(&id).into_owned()));
    }
    if let Some(text) = &letter.text {
        builder = builder.text_body(whole_lines(fill("text", text)?));
    }
    if let Some(html) = &letter.html {
        builder = builder.html_body(whole_lines(fill("html", html)?));
    }
    builder.write_to_vec().map_err(|error| Problem::senseless(error.to_string()))
}

/// CR alone ends a line, too: the builder would leave it where it is, and the relay take no such text.
fn whole_lines(text: String) -> String {
    if text.contains('\r') { text.replace("\r\n", "\n").replace('\r', "\n") } else { text }
}

fn address(text: &str) -> Result<Address<'_>, Problem> {
    let (name, address) = named(text);
    one_line("a name", text)?;
    Ok(Address::new_address(name, address))
}

/// The name of a field as the builder knows it (RFC 5322 2.2).
fn field_name(name: &str) -> Result<String, Problem> {
    let fine = (1..=70).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_graphic() && b != b':');
    if !fine {
        return Err(Problem::senseless(format!("{name:?} is no name of a field")));
    }
    if MADE_FIELDS.iter().any(|made| name.eq_ignore_ascii_case(made)) {
        return Err(Problem::senseless(format!("the field {name} is made from other members, or by the relay")));
    }
    let known = ["Date", "Message-ID"].into_iter().find(|known| name.eq_ignore_ascii_case(known));
    Ok(known.unwrap_or(name).to_owned())
}

fn one_line<T: AsRef<str>>(name: &str, text: T) -> Result<T, Problem> {
    match text.as_ref().chars().any(char::is_control) {
        true => Err(Problem::senseless(format!("{name} holds line ends or other control characters"))),
        false => Ok(text),
    }
}
