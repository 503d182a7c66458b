//! The timeline as shapes: where bars, ticks and numbered marks stand. Units are those of the
//! drawing's own coordinates.

use super::{
    model::{LANES, Moment, Timeline},
    story::{Kind, Numbered},
    words::{count, duration, grouped},
};
use crate::event::format_time;

pub(super) const WIDTH: f64 = 1000.0;
const LEFT: f64 = 92.0;
const RIGHT: f64 = 70.0;
/// Room for the marks above the lanes.
const TOP: f64 = 40.0;
const LANE: f64 = 30.0;
const GAP: f64 = 8.0;
/// Marks closer than this share one badge.
const BADGE: f64 = 26.0;
const TICKS: u64 = 5;

/// A timeline to draw.
pub(super) struct Chart {
    pub height: f64,
    /// Edges of the plot.
    pub left: f64,
    pub right: f64,
    pub bottom: f64,
    pub lanes: Vec<Lane>,
    pub ticks: Vec<Tick>,
    pub marks: Vec<Badge>,
    pub step: String,
}

pub(super) struct Lane {
    pub name: &'static str,
    pub base: f64,
    pub middle: f64,
    pub total: String,
    pub bars: Vec<Bar>,
}

pub(super) struct Bar {
    pub x: f64,
    pub y: f64,
    pub width: f64,
    pub height: f64,
    pub title: String,
}

pub(super) struct Tick {
    pub x: f64,
    pub label: String,
    pub anchor: &'static str,
}

pub(super) struct Badge {
    pub x: f64,
    pub width: f64,
    pub label: String,
    pub class: &'static str,
    pub target: usize,
    pub title: String,
}

/// Time of day with milliseconds.
pub(super) fn clock(at: Moment) -> String {
    format_time(at.0).get(11..23).unwrap_or_default().to_owned()
}

/// Lays a timeline out.
pub(super) fn chart(timeline: &Timeline, story: &[Numbered<'_>]) -> Chart {
    let steps = timeline.lanes[0].len().max(1);
    let scale = (WIDTH - LEFT - RIGHT) / steps as f64;
    let lanes: Vec<Lane> = (0..LANES.len()).map(|lane| self::lane(timeline, lane, scale)).collect();
    let bottom = TOP + LANES.len() as f64 * (LANE + GAP);
    let span = timeline.step_ns.saturating_mul(steps as u64);
    let ticks = (0..=TICKS).map(|tick| Tick {
        x: LEFT + (WIDTH - LEFT - RIGHT) * tick as f64 / TICKS as f64,
        label: label(timeline.from.0.saturating_add(span / TICKS * tick), span),
        anchor: match tick {
            0 => "start",
            TICKS => "end",
            _ => "middle",
        },
    });
    let place = |at: Moment| {
        let after = at.0.saturating_sub(timeline.from.0) as f64 / timeline.step_ns.max(1) as f64;
        LEFT + after.min(steps as f64) * scale
    };
    Chart {
        height: bottom + 24.0,
        left: LEFT,
        right: WIDTH - RIGHT,
        bottom,
        lanes,
        ticks: ticks.collect(),
        marks: badges(story, place),
        step: duration(timeline.step_ns),
    }
}

fn lane(timeline: &Timeline, lane: usize, scale: f64) -> Lane {
    let counts = &timeline.lanes[lane];
    let most = f64::from(counts.iter().copied().max().unwrap_or(0)).ln_1p();
    let base = TOP + lane as f64 * (LANE + GAP) + LANE;
    let bars = counts.iter().enumerate().filter(|(_, count)| **count != 0).map(|(step, number)| {
        // Logarithmic: one event must be seen beside a thousand.
        let height = (f64::from(*number).ln_1p() / most * LANE).max(3.0);
        let at = timeline.from.0.saturating_add(timeline.step_ns.saturating_mul(step as u64));
        Bar {
            x: LEFT + step as f64 * scale,
            y: base - height,
            width: (scale - 0.4).max(1.4),
            height,
            title: format!(
                "{}: {} {}",
                clock(Moment(at)),
                grouped(u64::from(*number)),
                LANES[lane]
            ),
        }
    });
    let total: u64 = counts.iter().map(|count| u64::from(*count)).sum();
    let (bars, total) = (bars.collect(), grouped(total));
    Lane { name: LANES[lane], base, middle: base - LANE / 2.0 + 4.0, total, bars }
}

fn label(at: u64, span: u64) -> String {
    let text = format_time(at);
    let part = match span / 1_000_000_000 {
        0..60 => text.get(11..23),
        60..86_400 => text.get(11..19),
        _ => text.get(..16),
    };
    part.unwrap_or_default().replace('T', " ")
}

/// One badge for steps that stand close to each other.
fn badges(story: &[Numbered<'_>], place: impl Fn(Moment) -> f64) -> Vec<Badge> {
    let mut groups: Vec<(f64, Vec<&Numbered<'_>>)> = Vec::new();
    for step in story.iter().filter(|step| step.kind >= Kind::Near) {
        let x = place(step.step.time);
        match groups.last_mut() {
            Some((first, group)) if x - *first < BADGE => group.push(step),
            _ => groups.push((x, vec![step])),
        }
    }
    groups.into_iter().filter_map(|(x, group)| badge(x, &group)).collect()
}

fn badge(x: f64, group: &[&Numbered<'_>]) -> Option<Badge> {
    let (first, last) = (group.first()?, group.last()?);
    let worst = group.iter().max_by_key(|step| step.kind)?;
    let label = match group.len() {
        1 => first.number.to_string(),
        _ => format!("{}–{}", first.number, last.number),
    };
    Some(Badge {
        x,
        width: 12.0 + 6.6 * label.chars().count() as f64,
        label,
        class: worst.kind.class(),
        target: worst.number,
        title: match group.len() {
            1 => format!("{} {}", first.deed(), first.step.subject.shown()),
            more => format!(
                "{}, the first: {} {}",
                count(more as u64, "step"),
                first.deed(),
                first.step.subject.shown()
            ),
        },
    })
}
