//! JSON text, walked once without building anything.
//!
//! A [`Walker`] is a pull parser over one JSON value: [`Walker::begin`] reads a scalar whole or the opening bracket
//! of a container, [`Walker::next_key`] and [`Walker::next_element`] go through the container. Texts and numbers are
//! slices of the input, so that what is kept is kept to the letter, and every error has its byte offset.
//!
//! Stricter than RFC 8259 on purpose: nesting deeper than [`DEPTH_MAX`], a key given twice in an object, an integer
//! beyond 64 bits and a number beyond a double are errors, because each of them means something else to the next
//! reader.

use std::borrow::Cow;

use hashbrown::HashSet;
use smallvec::SmallVec;

/// How deep objects and arrays may be nested.
pub const DEPTH_MAX: usize = 64;

/// Objects with more keys than this look for repeated keys in a hash set instead of one by one.
const KEYS_LINEAR: usize = 24;

/// What is wrong with a JSON text. Boxed: the good way stays small.
#[derive(Debug, Clone, PartialEq)]
pub struct JsonError {
    /// `not_json`, `too_deep`, `duplicate_key`, `number_out_of_range`, or a caller's own.
    pub code: &'static str,
    /// Without the place.
    pub reason: String,
    /// Byte offset into the text.
    pub offset: usize,
    /// From the inside out: keys and `[index]`es, filled in while the error travels up.
    pub path: Vec<String>,
}

pub type Walked<T> = Result<T, Box<JsonError>>;

impl JsonError {
    pub fn new(code: &'static str, reason: impl Into<String>, offset: usize) -> Box<Self> {
        Box::new(JsonError { code, reason: reason.into(), offset, path: Vec::new() })
    }

    /// Adds the key that leads to where the error is.
    pub fn under(mut self: Box<Self>, key: impl Into<String>) -> Box<Self> {
        self.path.push(key.into());
        self
    }

    /// `properties.products[1].sku: missing`; `root` is what the text itself is called, and may be empty.
    pub fn message(&self, root: &str) -> String {
        let mut place = root.to_string();
        for part in self.path.iter().rev() {
            if !part.starts_with('[') && !place.is_empty() {
                place.push('.');
            }
            place.push_str(part);
        }
        if place.is_empty() { self.reason.clone() } else { format!("{place}: {}", self.reason) }
    }
}

/// What begins at the walker's position.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Token<'a> {
    Null,
    Boolean(bool),
    Number(Number<'a>),
    String(Text<'a>),
    /// Go on with [`Walker::next_element`] until it says false.
    Array,
    /// Go on with [`Walker::next_key`] until it says None.
    Object,
}

impl Token<'_> {
    /// For messages: `a number`, `an object`.
    pub fn kind(&self) -> &'static str {
        match self {
            Token::Null => "null",
            Token::Boolean(_) => "a boolean",
            Token::Number(_) => "a number",
            Token::String(_) => "a string",
            Token::Array => "an array",
            Token::Object => "an object",
        }
    }
}

/// A JSON number as it was written; known to be within range.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Number<'a> {
    pub text: &'a str,
    /// Written without fraction and exponent.
    pub integer: bool,
}

impl Number<'_> {
    pub fn double(&self) -> f64 {
        self.text.parse().unwrap_or(f64::NAN)
    }

    /// None when it is not whole or does not fit: `12.0` and `1e3` are whole numbers too.
    pub fn long(&self) -> Option<i64> {
        if self.integer {
            return self.text.parse().ok();
        }
        let double = self.double();
        // Beyond 2^53 a double no longer says which whole number was meant.
        (double.fract() == 0.0 && double.abs() <= 9_007_199_254_740_992.0).then_some(double as i64)
    }
}

/// A JSON string as it was written, its escapes known to be good.
#[derive(Debug, Clone, Copy)]
pub struct Text<'a> {
    quoted: &'a str,
    escaped: bool,
}

impl<'a> Text<'a> {
    /// The string's value.
    pub fn decode(&self) -> Cow<'a, str> {
        if !self.escaped {
            return Cow::Borrowed(&self.quoted[1..self.quoted.len() - 1]);
        }
        match serde_json::from_str::<String>(self.quoted) {
            Ok(text) => Cow::Owned(text),
            Err(_) => Cow::Borrowed(self.quoted), // not reached: the escapes have been walked
        }
    }

    /// With its quotes and escapes.
    pub fn quoted(&self) -> &'a str {
        self.quoted
    }
}

impl PartialEq for Text<'_> {
    fn eq(&self, other: &Self) -> bool {
        if self.escaped || other.escaped { self.decode() == other.decode() } else { self.quoted == other.quoted }
    }
}

/// An open object or array.
#[derive(Debug, Clone, Copy)]
struct Frame {
    /// Nothing has been read in it yet.
    first: bool,
    keys_from: u32,
    keys: u32,
    /// Tells objects apart in `many_keys`.
    number: u32,
}

/// Walks one JSON value and what surrounds it.
pub struct Walker<'a> {
    text: &'a str,
    at: usize,
    start: usize,
    frames: SmallVec<[Frame; 8]>,
    keys: SmallVec<[Text<'a>; 16]>,
    many_keys: HashSet<(u32, Cow<'a, str>)>,
    objects: u32,
}

impl<'a> Walker<'a> {
    pub fn new(text: &'a str) -> Self {
        Walker {
            text,
            at: 0,
            start: 0,
            frames: SmallVec::new(),
            keys: SmallVec::new(),
            many_keys: HashSet::default(),
            objects: 0,
        }
    }

    /// Where the token that was begun last starts.
    pub fn start(&self) -> usize {
        self.start
    }

    /// Where the walker stands: after a value, its end.
    pub fn at(&self) -> usize {
        self.at
    }

    /// The text from `start` to where the walker stands.
    pub fn text_from(&self, start: usize) -> &'a str {
        self.text.get(start..self.at).unwrap_or_default()
    }

    /// Reads a scalar whole, or the opening bracket of a container.
    pub fn begin(&mut self) -> Walked<Token<'a>> {
        self.space();
        self.start = self.at;
        match self.peek() {
            Some(b'"') => Ok(Token::String(self.string()?)),
            Some(b'{') => {
                self.open()?;
                Ok(Token::Object)
            }
            Some(b'[') => {
                self.open()?;
                Ok(Token::Array)
            }
            Some(b'-' | b'0'..=b'9') => Ok(Token::Number(self.number()?)),
            Some(b't') => self.word("true", Token::Boolean(true)),
            Some(b'f') => self.word("false", Token::Boolean(false)),
            Some(b'n') => self.word("null", Token::Null),
            Some(b'N' | b'I') => Err(JsonError::new(
                "number_out_of_range",
                "NaN and Infinity are not JSON numbers; leave them out",
                self.at,
            )),
            _ => Err(self.unexpected("a value")),
        }
    }

    /// In an object: the next key, with the walker before its value; None at the object's end.
    pub fn next_key(&mut self) -> Walked<Option<Text<'a>>> {
        if !self.advance(b'}', "',' or '}'")? {
            return Ok(None);
        }
        let at = self.at;
        if self.peek() != Some(b'"') {
            return Err(self.unexpected("a key in quotes"));
        }
        let key = self.string()?;
        self.remember(key, at)?;
        self.space();
        if self.peek() != Some(b':') {
            return Err(self.unexpected("':'"));
        }
        self.at += 1;
        Ok(Some(key))
    }

    /// In an array: whether another element follows, with the walker before it.
    pub fn next_element(&mut self) -> Walked<bool> {
        self.advance(b']', "',' or ']'")
    }

    /// Walks the rest of the value whose token was read last.
    pub fn skip(&mut self, token: Token<'a>) -> Walked<()> {
        match token {
            Token::Array => {
                while self.next_element()? {
                    let inner = self.begin()?;
                    self.skip(inner)?;
                }
            }
            Token::Object => {
                while self.next_key()?.is_some() {
                    let inner = self.begin()?;
                    self.skip(inner)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Checks that nothing but white space follows.
    pub fn end(&mut self) -> Walked<()> {
        self.space();
        if self.at < self.text.len() { Err(self.unexpected("the end")) } else { Ok(()) }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    fn unexpected(&self, wanted: &str) -> Box<JsonError> {
        let found = match self.text.get(self.at..).and_then(|rest| rest.chars().next()) {
            Some(character) => format!("{character:?}"),
            None => "the end of the text".to_string(),
        };
        JsonError::new("not_json", format!("not JSON: expected {wanted}, found {found}"), self.at)
    }

    fn word(&mut self, word: &str, token: Token<'a>) -> Walked<Token<'a>> {
        if self.text.as_bytes()[self.at..].starts_with(word.as_bytes()) {
            self.at += word.len();
            return Ok(token);
        }
        Err(self.unexpected("a value"))
    }

    fn open(&mut self) -> Walked<()> {
        if self.frames.len() == DEPTH_MAX {
            let reason = format!("nested deeper than {DEPTH_MAX} levels");
            return Err(JsonError::new("too_deep", reason, self.at));
        }
        self.objects += 1;
        self.frames.push(Frame { first: true, keys_from: self.keys.len() as u32, keys: 0, number: self.objects });
        self.at += 1;
        Ok(())
    }

    /// Steps over the comma to the next item; false at the closing bracket, which closes the container.
    fn advance(&mut self, close: u8, wanted: &str) -> Walked<bool> {
        self.space();
        let next = self.peek();
        let Some(frame) = self.frames.last_mut() else { return Ok(false) };
        if next == Some(close) {
            self.keys.truncate(frame.keys_from as usize);
            self.frames.pop();
            self.at += 1;
            return Ok(false);
        }
        if frame.first {
            frame.first = false;
            return Ok(true);
        }
        if next != Some(b',') {
            return Err(self.unexpected(wanted));
        }
        self.at += 1;
        self.space();
        Ok(true)
    }

    /// Refuses a key that the object already has.
    fn remember(&mut self, key: Text<'a>, at: usize) -> Walked<()> {
        let Some(frame) = self.frames.last_mut() else { return Ok(()) };
        let from = frame.keys_from as usize;
        frame.keys += 1;
        let repeated = if (frame.keys as usize) <= KEYS_LINEAR {
            let repeated = self.keys[from..].contains(&key);
            self.keys.push(key);
            repeated
        } else {
            let number = frame.number;
            // The first keys move over once, with the one that is too many.
            self.many_keys.extend(self.keys.drain(from..).map(|known| (number, known.decode())));
            !self.many_keys.insert((number, key.decode()))
        };
        if repeated {
            let reason = format!("the key {} is given twice", shorten(key.quoted));
            return Err(JsonError::new("duplicate_key", reason, at));
        }
        Ok(())
    }

    fn string(&mut self) -> Walked<Text<'a>> {
        let start = self.at;
        let bytes = self.text.as_bytes();
        let mut escaped = false;
        self.at += 1;
        loop {
            let rest = &bytes[self.at..];
            let Some(plain) = rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..=0x1f)) else {
                return Err(JsonError::new("not_json", "not JSON: the text ends inside a string", bytes.len()));
            };
            self.at += plain;
            match rest[plain] {
                b'"' => break,
                b'\\' => {
                    escaped = true;
                    self.escape()?;
                }
                _ => return Err(JsonError::new("not_json", "not JSON: a control character in a string", self.at)),
            }
        }
        self.at += 1;
        Ok(Text { quoted: &self.text[start..self.at], escaped })
    }

    fn escape(&mut self) -> Walked<()> {
        let at = self.at;
        let bad = || JsonError::new("not_json", "not JSON: a bad escape in a string", at);
        match self.text.as_bytes().get(self.at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 2,
            Some(b'u') => {
                let unit = self.hex(self.at + 2).ok_or_else(bad)?;
                self.at += 6;
                match unit {
                    0xD800..=0xDBFF => {
                        let pair = self.text.as_bytes().get(self.at..self.at + 2) == Some(b"\\u");
                        let low = self.hex(self.at + 2).filter(|low| pair && (0xDC00..=0xDFFF).contains(low));
                        low.ok_or_else(bad)?;
                        self.at += 6;
                    }
                    0xDC00..=0xDFFF => return Err(bad()),
                    _ => {}
                }
            }
            _ => return Err(bad()),
        }
        Ok(())
    }

    fn hex(&self, at: usize) -> Option<u32> {
        let digits = self.text.as_bytes().get(at..at + 4)?;
        digits.iter().try_fold(0, |value, digit| Some(value * 16 + (*digit as char).to_digit(16)?))
    }

    fn digits(&mut self) -> Walked<()> {
        if !matches!(self.peek(), Some(b'0'..=b'9')) {
            return Err(self.unexpected("a digit"));
        }
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        Ok(())
    }

    fn number(&mut self) -> Walked<Number<'a>> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek() {
            Some(b'0') => self.at += 1,
            Some(b'I') => {
                return Err(JsonError::new(
                    "number_out_of_range",
                    "Infinity is not a JSON number; leave it out",
                    start,
                ));
            }
            _ => self.digits()?,
        }
        let mut integer = true;
        let mut exponent = false;
        if self.peek() == Some(b'.') {
            integer = false;
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            integer = false;
            exponent = true;
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        let number = Number { text: &self.text[start..self.at], integer };
        // Short numbers are within range by their length alone.
        let in_range = match (integer, exponent, number.text.len()) {
            (true, _, ..19) | (false, false, ..300) => true,
            (true, ..) => number.text.parse::<i64>().is_ok(),
            (false, ..) => number.double().is_finite(),
        };
        if !in_range {
            let kind = if integer { "64-bit integer" } else { "double" };
            let reason = format!("{} does not fit a {kind}; send it as a string", shorten(number.text));
            return Err(JsonError::new("number_out_of_range", reason, start));
        }
        Ok(number)
    }
}

/// At most 40 characters of a value, for messages.
pub fn shorten(text: &str) -> String {
    match text.char_indices().nth(40) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_string(),
    }
}

/// Appends `text` as a JSON string.
pub fn write_string(out: &mut String, text: &str) {
    let plain = |byte: u8| byte >= 0x20 && byte != b'"' && byte != b'\\';
    if text.bytes().all(plain) {
        out.push('"');
        out.push_str(text);
        out.push('"');
    } else {
        out.push_str(&serde_json::Value::from(text).to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn walk(text: &str) -> Walked<()> {
        let mut walker = Walker::new(text);
        let token = walker.begin()?;
        walker.skip(token)?;
        walker.end()
    }

    #[test]
    fn what_is_not_json_is_refused_with_its_offset() {
        let deep = "[".repeat(100_000);
        let cases: &[(&str, &str, usize)] = &[
            ("", "not_json", 0),
            ("{", "not_json", 1),
            ("{\"a\"}", "not_json", 4),
            ("{\"a\":}", "not_json", 5),
            ("{\"a\":1,}", "not_json", 7),
            ("[1,]", "not_json", 3),
            ("{a:1}", "not_json", 1),
            ("{'a':1}", "not_json", 1),
            ("{\"a\":1}x", "not_json", 7),
            ("{\"a\":1}{}", "not_json", 7),
            ("01", "not_json", 1),
            ("1.", "not_json", 2),
            ("+1", "not_json", 0),
            ("tru", "not_json", 0),
            ("\"a\u{1}\"", "not_json", 2),
            ("\"a\\x\"", "not_json", 2),
            ("\"\\ud800\"", "not_json", 1),
            ("\"\\udc00\"", "not_json", 1),
            ("\"\\u12", "not_json", 1),
            ("[1}", "not_json", 2),
            ("{\"a\":NaN}", "number_out_of_range", 5),
            ("{\"a\":-Infinity}", "number_out_of_range", 5),
            ("[9223372036854775808]", "number_out_of_range", 1),
            ("[1e999]", "number_out_of_range", 1),
            ("{\"a\":1,\"a\":2}", "duplicate_key", 7),
            ("{\"a\":1,\"\\u0061\":2}", "duplicate_key", 7),
            (&deep, "too_deep", DEPTH_MAX),
        ];
        for (text, code, offset) in cases {
            let error = walk(text).unwrap_err();
            assert_eq!((error.code, error.offset), (*code, *offset), "{}", shorten(text));
        }
    }

    #[test]
    fn the_borders_of_what_is_allowed() {
        let nested = format!("{}{}", "[".repeat(DEPTH_MAX), "]".repeat(DEPTH_MAX));
        for text in [
            "9223372036854775807",
            "-9223372036854775808",
            "1.7976931348623157e308",
            "\"\\ud83d\\ude00\"",
            " [ ] ",
            "{\"a\":{\"a\":1},\"b\":[{\"a\":1},{\"a\":1}]}",
            &nested,
        ] {
            walk(text).unwrap();
        }
    }

    #[test]
    fn a_repeated_key_is_found_in_a_large_object() {
        let object = |last: usize| {
            let keys: Vec<String> = (0..200).chain([last]).map(|key| format!("\"k{key}\":{{\"k1\":1}}")).collect();
            format!("{{{}}}", keys.join(","))
        };
        walk(&object(200)).unwrap();
        for key in [0, KEYS_LINEAR - 1, KEYS_LINEAR, KEYS_LINEAR + 1, 199] {
            assert_eq!(walk(&object(key)).unwrap_err().code, "duplicate_key", "k{key}");
        }
    }

    #[test]
    fn whole_numbers_written_as_doubles_are_long() {
        for (text, long) in [("12", Some(12)), ("12.0", Some(12)), ("1e3", Some(1000)), ("12.5", None), ("1e300", None)]
        {
            let Token::Number(number) = Walker::new(text).begin().unwrap() else { panic!("{text}") };
            assert_eq!(number.long(), long, "{text}");
        }
    }

    proptest! {
        /// serde_json is the oracle: what it accepts is accepted but for the named exceptions, and the other way round.
        #[test]
        fn accepts_what_serde_json_accepts(text in "[\\[\\]{}\",:0-2aenult.\\-\\\\ ]{0,14}") {
            let oracle = serde_json::from_str::<serde_json::Value>(&text);
            match walk(&text) {
                Ok(()) => prop_assert!(oracle.is_ok(), "{text}"),
                Err(error) if error.code == "not_json" => prop_assert!(oracle.is_err(), "{text}"),
                Err(_) => {}
            }
        }

        #[test]
        fn strings_decode_like_serde_json(value in any::<String>()) {
            let quoted = serde_json::to_string(&value).unwrap();
            let Token::String(text) = Walker::new(&quoted).begin().unwrap() else { panic!("{quoted}") };
            prop_assert_eq!(text.decode(), value.as_str());
            let mut written = String::new();
            write_string(&mut written, &value);
            prop_assert_eq!(written, quoted);
        }
    }
}
