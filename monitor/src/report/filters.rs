//! Filters and words that the templates share.

use std::borrow::Borrow;

use askama::{Result, Values, filters::Safe};

use super::{
    draw,
    html::Name,
    model::{Location, Moment, ProcessText, Report},
    words::{count, duration, grouped},
};
use crate::event::{Bytes, format_time};

/// A path or other name.
#[askama::filter_fn]
pub fn name(bytes: &Bytes, _: &dyn Values) -> Result<Safe<String>> {
    Ok(Safe(Name(bytes).to_string()))
}

/// A program by its last part.
#[askama::filter_fn]
pub fn program(exe: &Bytes, _: &dyn Values) -> Result<String> {
    let bytes = exe.as_bytes();
    let last = bytes.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
    Ok(match last.is_empty() {
        true => "unknown program".to_owned(),
        false => Bytes::from(last).shown().to_string(),
    })
}

/// Text without markup, for attributes.
#[askama::filter_fn]
pub fn plain(bytes: &Bytes, _: &dyn Values) -> Result<String> {
    Ok(bytes.shown().to_string())
}

/// Arguments as one line.
#[askama::filter_fn]
pub fn line(argv: &[Bytes], _: &dyn Values) -> Result<String> {
    let shown: Vec<String> = argv.iter().map(|argument| argument.shown().to_string()).collect();
    Ok(shown.join(" "))
}

/// Time of day.
#[askama::filter_fn]
pub fn clock(at: &Moment, _: &dyn Values) -> Result<String> {
    Ok(draw::clock(*at))
}

/// Date and time of day.
#[askama::filter_fn]
pub fn date(at: &Moment, _: &dyn Values) -> Result<String> {
    Ok(format_time(at.0).get(..19).unwrap_or_default().replace('T', " "))
}

/// All of it, for machines and hover.
#[askama::filter_fn]
pub fn exact(at: &Moment, _: &dyn Values) -> Result<String> {
    Ok(format_time(at.0))
}

/// A time behind another.
#[askama::filter_fn]
pub fn later(ns: &u64, _: &dyn Values) -> Result<String> {
    Ok(format!("+{}", duration(*ns)))
}

/// `1,234`.
#[askama::filter_fn]
pub fn n(number: impl Borrow<u64>, _: &dyn Values) -> Result<String> {
    Ok(grouped(*number.borrow()))
}

/// A coordinate.
#[askama::filter_fn]
pub fn fixed(number: impl Borrow<f64>, _: &dyn Values) -> Result<String> {
    Ok(format!("{:.1}", number.borrow()))
}

/// A number with its word.
#[askama::filter_fn]
pub fn of(number: impl Borrow<u64>, _: &dyn Values, word: &str) -> Result<String> {
    Ok(count(*number.borrow(), word))
}

/// How a process ended.
#[askama::filter_fn]
pub fn end(process: &ProcessText, _: &dyn Values) -> Result<String> {
    Ok(match process.status {
        None => "still running".to_owned(),
        Some(0) => String::new(),
        Some(status) if status & 0x7f != 0 => format!("killed by signal {}", status & 0x7f),
        Some(status) => format!("exit {}", status >> 8 & 0xff),
    })
}

/// What the report is about: its servers.
pub(super) fn title(report: &Report) -> String {
    let mut servers: Vec<&str> =
        report.instances.items.iter().map(|instance| instance.server.as_str()).collect();
    servers.sort_unstable();
    servers.dedup();
    match servers.as_slice() {
        [] => "no instance".to_owned(),
        [one] => (*one).to_owned(),
        [first, rest @ ..] => format!("{first} and {}", count(rest.len() as u64, "other server")),
    }
}

/// `FILE:LINE` of a line of the recordings.
pub(super) fn place(report: &Report, place: &Location) -> String {
    let file = report.files.get(place.file).map_or(&[][..], |file| file.as_bytes());
    let name = file.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
    format!("{}:{}", Bytes::from(name).shown(), place.line)
}
