//! What a cutover asks for: of the migration that makes it by itself, and of the operator who makes it by hand.
//!
//! | | by itself | by hand |
//! |---|---|---|
//! | not met | it waits | refused, unless it is waived by its name; the weight counts only while a migration is under way |
//! | not known | it waits | it is said |
//! | not measured | it is made | it is said |
//!
//! *In sync* is safety, and not among what can be waived: [`crate::moves::plan`] refuses.

use std::fmt;

use mirror_common::switch_word::{Side, SwitchWord};
use serde::{Deserialize, Serialize};

use crate::{divergence::Rate, migration::Capacity};

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Precondition {
    /// The shadow has every write.
    InSync,
    /// No write stands still that the freeze would wait for in vain.
    Settled,
    /// The shadow has answered the last step's share of the reads for the dwell time.
    Weight,
    /// The shadow carries what is forecast.
    Capacity,
    /// The primary carries what is forecast, should it go back.
    Standby,
    /// The two sides' answers differ less often than the bound.
    Divergence,
}

impl Precondition {
    /// All, in the order in which they are looked at.
    pub const ALL: [Self; 6] =
        [Self::InSync, Self::Settled, Self::Weight, Self::Capacity, Self::Standby, Self::Divergence];

    /// As it is typed.
    pub const fn name(self) -> &'static str {
        match self {
            Self::InSync => "in-sync",
            Self::Settled => "settled",
            Self::Weight => "weight",
            Self::Capacity => "capacity",
            Self::Standby => "standby",
            Self::Divergence => "divergence",
        }
    }

    /// The one of a name.
    ///
    /// # Errors
    /// When there is none, or it can't be waived; with those that can.
    pub fn waivable(name: &str) -> Result<Self, String> {
        let mut all = Self::ALL.into_iter().filter(|one| *one != Self::InSync);
        all.clone().find(|one| one.name() == name).ok_or_else(|| {
            let names = all.by_ref().map(Self::name).collect::<Vec<_>>().join(", ");
            match name == Self::InSync.name() {
                true => {
                    format!("a side that isn't in sync never gets the authority; what can be waived: {names}")
                }
                false => format!("no such precondition; there are: {names}"),
            }
        })
    }

    /// What an operator types to see or mend it.
    fn remedy(self, app: &str) -> String {
        match self {
            Self::InSync => format!("mirror join {app}"),
            Self::Settled => "mirror flows, or unsettled = \"reset\" in the policy".into(),
            Self::Weight => format!("mirror weight {app} 100"),
            Self::Capacity | Self::Standby => format!("mirror forecast {app}"),
            Self::Divergence => format!("mirror divergence {app}, mirror join {app} --again"),
        }
    }
}

/// How it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// It holds.
    Met,
    /// It is shown not to hold.
    NotMet,
    /// Neither is shown yet.
    NotKnown,
    /// Nobody looks at it here.
    NotMeasured,
}

impl Standing {
    /// As it is shown.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Met => "met",
            Self::NotMet => "not met",
            Self::NotKnown => "not known",
            Self::NotMeasured => "not measured",
        }
    }
}

/// A precondition, looked at.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// Which.
    pub precondition: Precondition,
    /// How it stands.
    pub standing: Standing,
    /// The figure and its bound, in words.
    pub says: String,
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.says)
    }
}

/// Connections whose write has been open for longer than a cutover may freeze writes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Unsettled {
    /// Whose client hasn't sent it whole.
    pub incomplete: u64,
    /// That a server owes the answer of.
    pub unanswered: u64,
    /// By policy the incomplete ones are reset by the cutover: nobody waits for them.
    pub resets: bool,
    /// Some of them, as a person reads them.
    pub named: Vec<String>,
}

/// Which share of the reads is the shadow's, and which is asked for. Shares are basis points.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Held {
    /// The last step's.
    pub least: u32,
    /// Seconds for which the share is what it is.
    pub seconds: f64,
    /// The dwell time.
    pub dwell_seconds: f64,
}

/// Compared answers since the shadow joined.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Differing {
    /// Those that differ, noise left out.
    pub differ: u64,
    /// All.
    pub compared: u64,
    /// A smaller share is asked for.
    pub bound: f64,
}

/// What is looked at.
#[derive(Clone, Debug, PartialEq)]
pub struct Facts<'a> {
    /// The switch word.
    pub word: SwitchWord,
    /// Nothing where nobody looked; or why it couldn't be looked at.
    pub unsettled: Option<&'a Result<Unsettled, String>>,
    /// Of the reads.
    pub held: Held,
    /// By side; nothing where its size isn't known to the gateway.
    pub capacity: &'a [Option<Capacity>; 2],
    /// Nothing where nobody compares.
    pub divergence: Option<Differing>,
}

impl Facts<'_> {
    /// Looks at each.
    pub fn checks(&self) -> Vec<Check> {
        let looked = |precondition| {
            let (standing, says) = match precondition {
                Precondition::InSync => self.in_sync(),
                Precondition::Settled => self.settled(),
                Precondition::Weight => self.weight(),
                Precondition::Capacity => self.capacity_of(Side::Shadow),
                Precondition::Standby => self.capacity_of(Side::Primary),
                Precondition::Divergence => self.divergence(),
            };
            Check { precondition, standing, says }
        };
        Precondition::ALL.into_iter().map(looked).collect()
    }

    fn in_sync(&self) -> (Standing, String) {
        match self.word.member(Side::Shadow) {
            true => (Standing::Met, "the shadow is in sync".into()),
            false => (Standing::NotMet, "the shadow is out of sync".into()),
        }
    }

    fn settled(&self) -> (Standing, String) {
        let seen = match self.unsettled {
            None => return (Standing::NotMeasured, "open writes weren't looked at".into()),
            Some(Err(why)) => return (Standing::NotKnown, format!("open writes can't be read: {why}")),
            Some(Ok(seen)) => seen,
        };
        let waited_for = seen.unanswered + if seen.resets { 0 } else { seen.incomplete };
        if waited_for > 0 {
            let named = seen.named.join(", ");
            let says = format!(
                "{waited_for} connections have a write that has been open for longer than writes may be frozen, 0 are allowed: \
                 {named}"
            );
            return (Standing::NotMet, says);
        }
        let says = match seen.incomplete {
            0 => "no write has been open for longer than writes may be frozen".into(),
            count => format!("{count} connections whose requests aren't whole are reset, as the policy says"),
        };
        (Standing::Met, says)
    }

    fn weight(&self) -> (Standing, String) {
        let percent = |share: u32| f64::from(share) / 100.0;
        let Held { least, seconds, dwell_seconds } = self.held;
        let share = self.word.weight();
        let standing =
            if share >= least && seconds >= dwell_seconds { Standing::Met } else { Standing::NotMet };
        let says = format!(
            "the shadow has answered {} % of the reads for {seconds:.0} s; {} % for {dwell_seconds:.0} s is asked for",
            percent(share),
            percent(least),
        );
        (standing, says)
    }

    fn capacity_of(&self, side: Side) -> (Standing, String) {
        let name = side.name();
        let Some(capacity) = &self.capacity[side as usize] else {
            let says =
                format!("the {name}'s capacity: no size is known of it ([{name}.capacity] in the policy)");
            return (Standing::NotMeasured, says);
        };
        let standing = match capacity {
            Capacity::Enough => Standing::Met,
            Capacity::Short { .. } => Standing::NotMet,
            Capacity::Unknown(_) => Standing::NotKnown,
        };
        (standing, format!("the {name}'s capacity: {capacity}"))
    }

    /// By an exact interval: what is between isn't shown.
    fn divergence(&self) -> (Standing, String) {
        let Some(Differing { differ, compared, bound }) = self.divergence else {
            return (Standing::NotMeasured, "answers aren't compared".into());
        };
        let rate = Rate::of(differ, compared);
        let standing = match rate {
            Rate { high, .. } if high < bound => Standing::Met,
            Rate { low, .. } if low > bound => Standing::NotMet,
            _ => Standing::NotKnown,
        };
        let [share, low, high, bound] = [rate.share, rate.low, rate.high, bound].map(|share| share * 100.0);
        let says = format!(
            "{share:.3} % of {compared} compared answers differ ({low:.3} to {high:.3} %), less than {bound:.3} % is asked for"
        );
        (standing, says)
    }
}

/// What a cutover by itself waits for.
pub fn waits_for(checks: Vec<Check>) -> Option<Check> {
    checks.into_iter().find(|check| matches!(check.standing, Standing::NotMet | Standing::NotKnown))
}

/// What refuses a cutover by hand, but for what is waived.
pub fn refuses(checks: &[Check], under_way: bool, waived: &[Precondition]) -> Vec<Check> {
    let counts = |check: &&Check| {
        let advice = check.precondition == Precondition::Weight && !under_way;
        check.standing == Standing::NotMet && !advice && !waived.contains(&check.precondition)
    };
    checks.iter().filter(counts).cloned().collect()
}

/// Why a cutover by hand is refused, and what to type.
#[derive(Clone, Debug, PartialEq)]
pub struct Refused {
    app: String,
    lacking: Vec<Check>,
    waived: Vec<Precondition>,
}

impl Refused {
    /// Nothing where all that counts is met or waived.
    pub fn of(app: &str, checks: &[Check], under_way: bool, waived: &[Precondition]) -> Option<Self> {
        let lacking = refuses(checks, under_way, waived);
        (!lacking.is_empty()).then(|| Self { app: app.into(), lacking, waived: waived.to_vec() })
    }
}

impl std::error::Error for Refused {}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "the cutover is refused, nothing has changed:")?;
        for check in &self.lacking {
            writeln!(f, "  {:<10}  {check}", check.precondition.name())?;
            writeln!(f, "  {:<10}  look, or mend it: {}", "", check.precondition.remedy(&self.app))?;
        }
        let new = self.lacking.iter().map(|check| check.precondition);
        let names: Vec<_> = self.waived.iter().copied().chain(new).map(Precondition::name).collect();
        write!(f, "to go on all the same: mirror cutover {} --despite {}", self.app, names.join(","))
    }
}

#[cfg(test)]
mod tests {
    use mirror_common::weight::ALL;

    use super::*;

    static NOBODY: Result<Unsettled, String> =
        Ok(Unsettled { incomplete: 0, unanswered: 0, resets: false, named: Vec::new() });
    static ENOUGH: [Option<Capacity>; 2] = [Some(Capacity::Enough), Some(Capacity::Enough)];

    fn good() -> Facts<'static> {
        Facts {
            word: SwitchWord::initial().with_member(Side::Shadow, true).with_weight(ALL),
            unsettled: Some(&NOBODY),
            held: Held { least: ALL, seconds: 600.0, dwell_seconds: 600.0 },
            capacity: &ENOUGH,
            divergence: Some(Differing { differ: 0, compared: 100_000, bound: 0.001 }),
        }
    }

    fn standing(facts: &Facts<'_>, of: Precondition) -> Standing {
        facts.checks().into_iter().find(|check| check.precondition == of).unwrap().standing
    }

    #[test]
    fn where_all_is_met_nothing_hinders() {
        let checks = good().checks();
        assert!(checks.iter().all(|check| check.standing == Standing::Met), "{checks:?}");
        assert_eq!(waits_for(checks.clone()), None);
        assert_eq!(Refused::of("shop", &checks, true, &[]), None);
    }

    #[test]
    fn each_is_shown_with_its_figure_and_its_bound_and_refuses_until_it_is_waived() {
        let named = vec!["10.0.1.2:99".into()];
        let still = Ok(Unsettled { incomplete: 1, unanswered: 2, resets: false, named });
        let short = |side: usize| {
            let mut capacity = ENOUGH.clone();
            capacity[side] = Some(Capacity::of("cores", 2.5, 2.0));
            capacity
        };
        let (primary, shadow) = (short(0), short(1));
        let cases = [
            (Precondition::Settled, Facts { unsettled: Some(&still), ..good() }, "3 connections"),
            (
                Precondition::Weight,
                Facts { word: good().word.with_weight(2_500), ..good() },
                "25 % of the reads for 600 s; 100 % for 600 s",
            ),
            (Precondition::Weight, Facts { held: Held { seconds: 9.0, ..good().held }, ..good() }, "for 9 s"),
            (Precondition::Capacity, Facts { capacity: &shadow, ..good() }, "2.50 cores needed, 2.00 there"),
            (Precondition::Standby, Facts { capacity: &primary, ..good() }, "the primary's capacity"),
            (
                Precondition::Divergence,
                Facts { divergence: Some(Differing { differ: 20, compared: 1_000, bound: 0.001 }), ..good() },
                "2.000 % of 1000 compared answers differ (1.226 to 3.072 %), less than 0.100 %",
            ),
        ];
        for (which, facts, says) in cases {
            let checks = facts.checks();
            let lacking = refuses(&checks, true, &[]);
            assert_eq!(lacking.len(), 1, "{lacking:?}");
            assert_eq!((lacking[0].precondition, lacking[0].standing), (which, Standing::NotMet));
            assert!(lacking[0].says.contains(says), "{}", lacking[0].says);
            assert_eq!(refuses(&checks, true, &[which]), []);
            assert_eq!(waits_for(checks), Some(lacking[0].clone()));
        }
    }

    #[test]
    fn a_low_weight_is_advice_where_no_migration_is_under_way() {
        let checks = Facts { word: good().word.with_weight(0), ..good() }.checks();
        assert_eq!(refuses(&checks, false, &[]), []);
        assert_eq!(refuses(&checks, true, &[]).len(), 1);
    }

    #[test]
    fn what_is_not_known_waits_by_itself_and_refuses_nobody() {
        let unknown = [Some(Capacity::Enough), Some(Capacity::Unknown("there is no forecast yet".into()))];
        let torn = Err("no map".to_owned());
        let few = Some(Differing { differ: 0, compared: 0, bound: 0.001 });
        for (which, facts) in [
            (Precondition::Settled, Facts { unsettled: Some(&torn), ..good() }),
            (Precondition::Capacity, Facts { capacity: &unknown, ..good() }),
            (Precondition::Divergence, Facts { divergence: few, ..good() }),
        ] {
            assert_eq!(standing(&facts, which), Standing::NotKnown);
            assert_eq!(refuses(&facts.checks(), true, &[]), []);
            assert_eq!(waits_for(facts.checks()).map(|check| check.precondition), Some(which));
        }
        let blind = Facts { unsettled: None, capacity: &[None, None], divergence: None, ..good() };
        for which in
            [Precondition::Settled, Precondition::Capacity, Precondition::Standby, Precondition::Divergence]
        {
            assert_eq!(standing(&blind, which), Standing::NotMeasured);
        }
        assert_eq!(waits_for(blind.checks()), None);
    }

    #[test]
    fn uploads_that_the_policy_resets_are_not_waited_for_and_unanswered_writes_are() {
        let still = Ok(Unsettled { incomplete: 1, resets: true, ..Unsettled::default() });
        let facts = Facts { unsettled: Some(&still), ..good() };
        assert_eq!(standing(&facts, Precondition::Settled), Standing::Met);
        let owed = Ok(Unsettled { unanswered: 1, resets: true, ..Unsettled::default() });
        assert_eq!(
            standing(&Facts { unsettled: Some(&owed), ..facts }, Precondition::Settled),
            Standing::NotMet
        );
    }

    #[test]
    fn a_refusal_says_the_command_that_goes_on_and_safety_is_never_waived() {
        let still = Ok(Unsettled { incomplete: 1, ..Unsettled::default() });
        let checks = Facts { unsettled: Some(&still), word: good().word.with_weight(0), ..good() }.checks();
        let refused = Refused::of("shop", &checks, true, &[Precondition::Weight]).unwrap().to_string();
        assert!(refused.ends_with("mirror cutover shop --despite weight,settled"), "{refused}");
        assert!(!refused.contains("  weight "), "{refused}");
        assert_eq!(Precondition::waivable("settled"), Ok(Precondition::Settled));
        assert!(Precondition::waivable("in-sync").unwrap_err().contains("never"));
        assert!(Precondition::waivable("force").unwrap_err().contains("settled, weight, capacity"));
    }
}
