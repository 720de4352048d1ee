//! Prints the documents that are made from the sources: `cargo xtask docs` keeps docs/ as this says.
#![forbid(unsafe_code)]

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use mirror_common::{switch_word::Side, verdict::Verdict};
use mirror_user::policy::Policy;
use syn::{Attribute, Expr, Fields, Item, Lit, Meta, Type};

const MADE: &str = "<!-- Made by `cargo xtask docs` from the sources: edits are lost. -->\n";
const SOURCES: [&str; 11] = [
    include_str!("../src/policy.rs"),
    include_str!("../src/policy/breaker.rs"),
    include_str!("../src/policy/divergence.rs"),
    include_str!("../src/policy/events.rs"),
    include_str!("../src/policy/migration.rs"),
    include_str!("../src/policy/pressure.rs"),
    include_str!("../src/policy/process.rs"),
    include_str!("../src/policy/resources.rs"),
    include_str!("../src/policy/scale.rs"),
    include_str!("../src/policy/service.rs"),
    include_str!("../src/policy/side.rs"),
];
const EXAMPLE: &str = include_str!("../../policies/http.toml");

fn main() -> Result<()> {
    let text = match std::env::args().nth(1).as_deref() {
        Some("VERDICTS.md") => verdicts(),
        Some("POLICY.md") => policy()?,
        _ => bail!("say which: VERDICTS.md or POLICY.md"),
    };
    print!("{text}");
    Ok(())
}

fn verdicts() -> String {
    let mut text = format!(
        "# Verdicts\n\n{MADE}\nWhat can become of a packet. Each packet ends in one, and each is counted: `mirror counters`, or \
         `mirror_packets_total{{verdict=\"…\"}}`. A number names the same thing for ever.\n\n\
         | number | verdict | packet | meaning |\n|---|---|---|---|\n"
    );
    for verdict in Verdict::ALL {
        let action = format!("{:?}", verdict.action()).to_lowercase();
        // Writing to a string can't fail.
        let _ =
            writeln!(text, "| {} | `{}` | {action} | {} |", *verdict as u8, verdict.name(), verdict.help());
    }
    text
}

fn policy() -> Result<String> {
    let mut items = Vec::new();
    for source in SOURCES {
        items.extend(syn::parse_file(source).context("read the policy's types")?.items);
    }
    let mut text = format!(
        "# The policy\n\n{MADE}\nA TOML file. `mirror check FILE` says what doesn't hold, with its line, and needs no root. \
         A field that isn't named here is refused.\n\nThe smallest policy with a shadow:\n\n```toml\n{}```\n",
        EXAMPLE
    );
    let bare = Policy::parse("bare.toml", BARE).map_err(|error| anyhow::anyhow!("{error}"))?;
    for (name, table) in TABLES {
        let item = items.iter().find_map(|item| match item {
            Item::Struct(item) if item.ident == name => Some(item),
            _ => None,
        });
        let item = item.with_context(|| format!("there is no struct {name} in the policy any more"))?;
        let Fields::Named(fields) = &item.fields else { bail!("{name} has no named fields") };
        let _ = write!(text, "\n## {table}\n\n{}\n\n", said(&item.attrs));
        text += "| field | value | default | meaning |\n|---|---|---|---|\n";
        for field in &fields.named {
            let ident = field.ident.as_ref().context("a field without a name")?;
            let kind = kind(&field.ty, &items)?;
            // Where the whole table may be left out, so may each of its fields.
            let attributes = [field.attrs.as_slice(), item.attrs.as_slice()].concat();
            let default = default(&ident.to_string(), &attributes, &field.ty, &bare)?;
            let _ = writeln!(text, "| `{ident}` | {kind} | {default} | {} |", said(&field.attrs));
        }
    }
    Ok(text)
}

/// The structs, and where each stands in the file.
const TABLES: [(&str, &str); 14] = [
    ("Policy", "In front of all tables"),
    ("Service", "`[service]`, and `[[services]]`"),
    ("Port", "`[[service.ports]]`, and `[[services.ports]]`"),
    ("Endpoint", "`[primary]` and `[shadow]`, or `[services.primary]` and `[services.shadow]`"),
    ("ResourcesTable", "`[primary.resources]` and `[shadow.resources]`"),
    ("Metrics", "`[metrics]`"),
    ("Process", "`[shadow.process]`"),
    ("Migration", "`[migration]`"),
    ("Capacity", "`[primary.capacity]` and `[shadow.capacity]`"),
    ("Scale", "`[scale]`"),
    ("Divergence", "`[divergence]`"),
    ("Breaker", "`[breaker]`"),
    ("Events", "`[events]`"),
    ("Webhook", "`[[events.webhooks]]`"),
];

/// A policy that leaves out all that may be left out.
const BARE: &str = "name = \"x\"\n[service]\nvip = \"10.0.0.1:80\"\n\
                    [primary]\naddress = \"10.0.0.2:80\"\nnat = \"10.0.0.3\"\n\
                    [shadow]\naddress = \"10.0.0.4:80\"\nnat = \"10.0.0.5\"\n\
                    [shadow.process]\ncommand = [\"/x\"]\nuser = \"x\"\ncpu = 1\nmemory = \"1GiB\"\n\
                    [scale]\ncpu_most = 2\nmemory_most = \"2GiB\"\n\
                    [[events.webhooks]]\nurl = \"https://x\"\n";

/// The doc comment, as one line.
fn said(attributes: &[Attribute]) -> String {
    let lines = attributes.iter().filter_map(|attribute| match &attribute.meta {
        Meta::NameValue(pair) if pair.path.is_ident("doc") => match &pair.value {
            Expr::Lit(literal) => match &literal.lit {
                Lit::Str(line) => Some(line.value().trim().to_owned()),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    });
    lines.collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

/// The last word of a type's path, and that of its argument.
fn words(ty: &Type) -> Result<(String, Option<&Type>)> {
    let Type::Path(path) = ty else { bail!("a type that isn't a path") };
    let last = path.path.segments.last().context("an empty path")?;
    let argument = match &last.arguments {
        syn::PathArguments::AngleBracketed(arguments) => match arguments.args.first() {
            Some(syn::GenericArgument::Type(ty)) => Some(ty),
            _ => None,
        },
        _ => None,
    };
    Ok((last.ident.to_string(), argument))
}

/// What is to be written for a type.
fn kind(ty: &Type, items: &[Item]) -> Result<String> {
    let (name, argument) = words(ty)?;
    let kind = match (name.as_str(), argument) {
        ("Option", Some(inner)) => return kind(inner, items),
        ("Vec", Some(inner)) if words(inner)?.0 == "Place" => "a list of absolute paths",
        ("Vec", Some(inner)) if words(inner)?.0 == "Ipv4Addr" => "a list of addresses",
        ("Vec", Some(inner)) if words(inner)?.0 == "SocketAddr" => "a list of `\"address:port\"`",
        ("Vec", Some(inner)) if words(inner)?.0 == "f64" => "a list of numbers",
        ("Vec", Some(inner)) if matches!(words(inner)?.0.as_str(), "Port" | "Service" | "Webhook") => {
            "a list of tables"
        }
        ("Vec", Some(_)) => "a list of strings",
        ("String", _) => "a string",
        ("Duration", _) => "a time, as `\"500ms\"`, `\"10s\"`, `\"2h\"`",
        ("SocketAddr", _) => "`\"address:port\"`",
        ("IpAddr" | "Ipv4Addr" | "Ipv6Addr", _) => "`\"address\"`",
        ("Nat", _) => "`\"address\"` or `\"keep\"`",
        ("bool", _) => "`true` or `false`",
        ("Resources", _) => "a table",
        ("BTreeMap", _) => "a table of strings",
        ("PathBuf", _) => "a path",
        ("JudgePolicy" | "ThroughputPolicy", _) => "a table of numbers",
        ("NonZeroU16" | "NonZeroU32" | "f64" | "u16" | "u32" | "u64" | "usize", _) => "a number",
        _ => return of_own(&name, items),
    };
    Ok(kind.to_owned())
}

/// What is to be written for a type of the policy's own.
fn of_own(name: &str, items: &[Item]) -> Result<String> {
    if TABLES.iter().any(|(table, _)| *table == name) {
        return Ok("a table".to_owned());
    }
    for item in items {
        match item {
            Item::Struct(item) if item.ident == name => return Ok(said(&item.attrs)),
            Item::Enum(item) if item.ident == name => {
                let values = item.variants.iter().map(|variant| {
                    let value = kebab(&variant.ident.to_string());
                    format!("`\"{value}\"`: {}", said(&variant.attrs))
                });
                return Ok(values.collect::<Vec<_>>().join(" "));
            }
            _ => {}
        }
    }
    bail!("nothing is known of the type {name}")
}

/// A variant's name as a policy has it.
fn kebab(variant: &str) -> String {
    let mut text = String::new();
    for letter in variant.chars() {
        if letter.is_ascii_uppercase() && !text.is_empty() {
            text.push('-');
        }
        text.push(letter.to_ascii_lowercase());
    }
    text
}

/// What holds where a field is left out.
fn default(name: &str, attributes: &[Attribute], ty: &Type, bare: &Policy) -> Result<String> {
    let defaulted = attributes.iter().any(|attribute| match &attribute.meta {
        Meta::List(list) => list.path.is_ident("serde") && list.tokens.to_string().contains("default"),
        _ => false,
    });
    if words(ty)?.0 == "Option" {
        let default = match name {
            "service" => "must be given, or `services`",
            "primary" | "nat" => "must be given",
            _ => "none",
        };
        return Ok(default.to_owned());
    }
    if !defaulted {
        return Ok("must be given".to_owned());
    }
    let wanted = bare.wanted().context("a policy without a process")?;
    let scale = bare.scale.as_ref().context("a policy without a scale")?;
    let webhook = bare.events.webhooks.first().context("a policy without a webhook")?;
    let service = bare.services().first().context("a policy without a service")?;
    let primary = service.side(Side::Primary).context("a service without a primary")?;
    let variant = |value: &dyn std::fmt::Debug| format!("`\"{}\"`", kebab(&format!("{value:?}")));
    let list = |list: &[String]| if list.is_empty() { "none".to_owned() } else { list.join(" ") };
    let text = match name {
        "stall" => time(bare.stall),
        "pressure" => variant(&bare.pressure),
        "pressure_budget" => time(bare.pressure_budget.get()),
        "freeze" => time(bare.freeze),
        "join_deadline" => time(bare.join_deadline),
        "idle" => time(bare.idle),
        "join_hook" => list(&bare.join_hook),
        "devices" => list(&bare.devices),
        "durable" => bare.durable.to_string(),
        "flows" => bare.flows.get().to_string(),
        "hold_frames" => bare.hold_frames.to_string(),
        "hold_bytes" => bare.hold_bytes.to_string(),
        "hook" => variant(&bare.hook),
        "unsettled" => variant(&bare.unsettled),
        "affinity" => variant(&service.affinity),
        // A side has them, or it has `address`.
        "addresses" => "none".to_owned(),
        "protocol" => variant(&service.protocol),
        "order" => variant(&bare.order),
        "weight_by" => variant(&bare.weight_by),
        "migration" | "divergence" | "breaker" => "its own defaults".to_owned(),
        "lost_legs" => bare.breaker.lost_legs.to_string(),
        "window" => time(bare.breaker.window),
        "probe" => time(bare.breaker.probe),
        "probe_most" => time(bare.breaker.probe_most),
        "rejoin" => bare.breaker.rejoin.to_string(),
        "segments" => bare.divergence.segments.to_string(),
        "capture" => bare.divergence.capture.to_string(),
        "noisy" => list(&bare.divergence.noisy),
        "events" | "ports" | "services" | "webhooks" => "none".to_owned(),
        "timeout" => time(webhook.timeout),
        "max_attempts" => webhook.max_attempts.to_string(),
        "steps" => format!("{:?}", bare.migration.steps),
        "dwell" => time(bare.migration.dwell),
        "dark" => time(bare.migration.dark),
        "cool_down" => time(bare.migration.cool_down),
        "attempts" => bare.migration.attempts.to_string(),
        "retry" => time(bare.migration.retry),
        "cutover" => variant(&bare.migration.cutover),
        "standby" => time(bare.migration.standby),
        "unhealthy" => time(bare.migration.unhealthy),
        "judge" | "throughput" => "docs/STATISTICS.md has them".to_owned(),
        "availability_first" => bare.migration.availability_first.to_string(),
        "armed" => scale.armed.to_string(),
        "ahead" => time(scale.ahead),
        "quantile" => scale.quantile.to_string(),
        "utilisation" => scale.utilisation.to_string(),
        "hold" => time(scale.hold),
        "labels" | "interfaces" => "none".to_owned(),
        "max_requests" => primary.max_requests.to_string(),
        "mss" => primary.mss.to_string(),
        "environment" if wanted.program.environment.is_empty() => "none".to_owned(),
        "directory" => format!("`\"{}\"`", wanted.program.directory.display()),
        "copy" if wanted.copies.is_empty() => "none".to_owned(),
        "empty" if wanted.empty.is_empty() => "none".to_owned(),
        "egress" if wanted.egress.is_empty() => "none".to_owned(),
        "health" => variant(&wanted.check),
        "health_deadline" => time(Duration::from_millis(wanted.deadline_ms)),
        _ => bail!("say here what the field {name} is when it is left out"),
    };
    Ok(text)
}

fn time(time: Duration) -> String {
    match (time.as_secs(), time.subsec_millis()) {
        (seconds, 0) if seconds % 3600 == 0 => format!("`\"{}h\"`", seconds / 3600),
        (seconds, 0) => format!("`\"{seconds}s\"`"),
        _ => format!("`\"{}ms\"`", time.as_millis()),
    }
}
