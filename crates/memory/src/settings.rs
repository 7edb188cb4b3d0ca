//! What an owner's memory settings come to for a VM of a given size, and which settings cannot be.
//!
//! Owns the defaults and the refusals; each refusal says what to do instead. The words are the model's
//! [`MemorySettings`]; the API answers a [`SettingsError`] with the code `InvalidParameterValue`.

use lucarne_model::{
    Bytes, Pages,
    memory::{EvictionPolicy, MemoryMode, MemorySettings, MemoryThresholds, Priority},
    price::{Prices, ThresholdShares},
};

/// Less than this and a guest does not even answer an interrupt.
pub const FLOOR: Bytes = Bytes::mib(4);

/// Settings that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    #[error("a VM of {memory} is too small to be paged; give it at least {FLOOR}")]
    MemoryTooSmall { memory: Bytes },
    #[error("a minimum operating amount of {asked} is too little to run in; ask for at least {FLOOR}")]
    OperatingTooSmall { asked: Bytes },
    #[error("the minimum operating amount {asked} is more than the instance's memory; ask for at most {memory}")]
    OperatingAboveMemory { asked: Bytes, memory: Bytes },
    #[error("the minimum starting amount {asked} is more than the instance's memory; ask for at most {memory}")]
    StartingAboveMemory { asked: Bytes, memory: Bytes },
    #[error(
        "the minimum starting amount {starting} is below the minimum operating amount {operating}: what starts would be \
         paused at once; raise the first or lower the second"
    )]
    StartingBelowOperating { starting: Bytes, operating: Bytes },
    #[error("a soaker gives memory back and so cannot be pinned; unpin it, or make it generic")]
    PinnedSoaker,
    #[error("pinned memory does not leak and so has no thresholds; leave them out, or unpin it")]
    PinnedWithThresholds,
    #[error(
        "the bucket would drain below {drain_below} and fill above {fill_above}, that is do both in between; lower the \
         first or raise the second"
    )]
    ThresholdsCrossed { fill_above: Bytes, drain_below: Bytes },
    #[error("the bucket would drain only below {asked}, which is too little to run in; ask for at least {FLOOR}")]
    DrainTooSmall { asked: Bytes },
    #[error(
        "the bucket would never fill above {asked}, for the instance has {memory}; pin it if that is what is meant"
    )]
    FillAboveMemory { asked: Bytes, memory: Bytes },
}

/// Settings that can be, and that the account's price book does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a priority of {} was asked for, and the account's price book allows {} at most", asked.0, most.0)]
pub struct PriorityTooHigh {
    pub asked: Priority,
    pub most: Priority,
}

/// How a VM's memory is kept, with every default filled in: possible, in whole pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keeping {
    pub memory: Pages,
    pub mode: MemoryMode,
    pub priority: Priority,
    /// At least [`FLOOR`], at most `minimum_starting`.
    pub minimum_operating: Pages,
    /// At most `memory`.
    pub minimum_starting: Pages,
    pub pinned: bool,
    /// None: they move with the host's pressure.
    pub thresholds: Option<Thresholds>,
    pub eviction: EvictionPolicy,
}

/// [`MemoryThresholds`] in pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    pub fill_above: Pages,
    /// At most `fill_above`.
    pub drain_below: Pages,
}

impl Keeping {
    /// What `settings` come to for a VM of `memory`.
    pub fn new(settings: &MemorySettings, memory: Bytes) -> Result<Self, SettingsError> {
        if memory < FLOOR {
            return Err(SettingsError::MemoryTooSmall { memory });
        }
        let (operating, starting) = minimums(settings, memory)?;
        let thresholds = settings.thresholds.map(|asked| thresholds(asked, memory)).transpose()?;
        match settings.mode {
            MemoryMode::Soaker if settings.pinned => return Err(SettingsError::PinnedSoaker),
            MemoryMode::Generic if settings.pinned && thresholds.is_some() => {
                return Err(SettingsError::PinnedWithThresholds);
            }
            MemoryMode::Soaker | MemoryMode::Generic => {}
        }
        Ok(Self {
            memory: Pages::covering(memory),
            mode: settings.mode,
            priority: settings.priority,
            minimum_operating: Pages::covering(operating),
            minimum_starting: Pages::covering(starting),
            pinned: settings.pinned,
            thresholds,
            eviction: settings.eviction,
        })
    }

    /// As it is under a price book: with the thresholds that were agreed for all of an account's instances, or are the
    /// operator's for all, where it has none of its own; and no higher in priority than was agreed.
    pub fn agreed(self, prices: &Prices) -> Self {
        let shares = prices.thresholds.filter(|_| !self.pinned && !self.is_soaker());
        let agreed = shares.map(|shares| shared(shares, self.memory));
        Self { thresholds: self.thresholds.or(agreed), priority: self.priority.min(prices.priority), ..self }
    }

    /// The settings that a host is told to come to the same.
    pub fn told(&self, settings: &MemorySettings) -> MemorySettings {
        let bytes = |thresholds: Thresholds| MemoryThresholds {
            fill_above: thresholds.fill_above.bytes(),
            drain_below: thresholds.drain_below.bytes(),
        };
        MemorySettings { thresholds: self.thresholds.map(bytes), priority: self.priority, ..*settings }
    }

    /// Gives way to generic VMs.
    pub fn is_soaker(&self) -> bool {
        self.mode == MemoryMode::Soaker
    }
}

/// Whether a price book lets an owner have these settings.
pub fn check_agreed(settings: &MemorySettings, prices: &Prices) -> Result<(), PriorityTooHigh> {
    let (asked, most) = (settings.priority, prices.priority);
    match settings.mode {
        MemoryMode::Soaker if asked > most => Err(PriorityTooHigh { asked, most }),
        MemoryMode::Soaker | MemoryMode::Generic => Ok(()),
    }
}

/// What shares come to for a VM of `memory`.
fn shared(shares: ThresholdShares, memory: Pages) -> Thresholds {
    let floor = Pages::covering(FLOOR);
    let part = |share: u32| Pages((u128::from(memory.0) * u128::from(share) / 1000) as u64).max(floor);
    Thresholds { fill_above: part(shares.fill_above()), drain_below: part(shares.drain_below()) }
}

/// The operating and the starting amount. One that was not asked for makes way for the one that was.
fn minimums(settings: &MemorySettings, memory: Bytes) -> Result<(Bytes, Bytes), SettingsError> {
    let (eighth, quarter) = (Bytes(memory.0 / 8).max(FLOOR), Bytes(memory.0 / 4).max(FLOOR));
    if let Some(asked) = settings.minimum_operating {
        if asked < FLOOR {
            return Err(SettingsError::OperatingTooSmall { asked });
        }
        if asked > memory {
            return Err(SettingsError::OperatingAboveMemory { asked, memory });
        }
    }
    if let Some(asked) = settings.minimum_starting.filter(|asked| *asked > memory) {
        return Err(SettingsError::StartingAboveMemory { asked, memory });
    }
    let (operating, starting) = match (settings.minimum_operating, settings.minimum_starting) {
        (None, None) => (eighth, quarter),
        (Some(operating), None) => (operating, quarter.max(operating)),
        (None, Some(starting)) => (eighth.min(starting).max(FLOOR), starting),
        (Some(operating), Some(starting)) => (operating, starting),
    };
    if starting < operating {
        return Err(SettingsError::StartingBelowOperating { starting, operating });
    }
    Ok((operating, starting))
}

fn thresholds(asked: MemoryThresholds, memory: Bytes) -> Result<Thresholds, SettingsError> {
    let MemoryThresholds { fill_above, drain_below } = asked;
    if drain_below > fill_above {
        return Err(SettingsError::ThresholdsCrossed { fill_above, drain_below });
    }
    if drain_below < FLOOR {
        return Err(SettingsError::DrainTooSmall { asked: drain_below });
    }
    if fill_above >= memory {
        return Err(SettingsError::FillAboveMemory { asked: fill_above, memory });
    }
    Ok(Thresholds { fill_above: Pages::covering(fill_above), drain_below: Pages::covering(drain_below) })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn amount() -> impl Strategy<Value = Bytes> {
        prop_oneof![
            4 => (0_u64..200).prop_map(Bytes::mib),
            2 => (0_u64..(200 << 20)).prop_map(Bytes),
            1 => any::<u64>().prop_map(Bytes),
            1 => Just(Bytes(0)),
        ]
    }

    prop_compose! {
        fn settings()(
            soaker in any::<bool>(), priority in any::<u8>(), operating in proptest::option::of(amount()),
            starting in proptest::option::of(amount()), pinned in proptest::bool::weighted(0.2),
            thresholds in proptest::option::of((amount(), amount())),
        ) -> MemorySettings {
            MemorySettings {
                mode: if soaker { MemoryMode::Soaker } else { MemoryMode::Generic },
                priority: Priority(priority),
                minimum_operating: operating,
                minimum_starting: starting,
                pinned,
                thresholds: thresholds.map(|(fill_above, drain_below)| MemoryThresholds { fill_above, drain_below }),
                eviction: EvictionPolicy::default(),
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]
        /// What is let through can be carried out, and what was asked for is kept.
        #[test]
        fn settings_are_possible_or_refused(settings in settings(), memory in amount()) {
            if let Ok(keeping) = Keeping::new(&settings, memory) {
                prop_assert!(Pages::covering(FLOOR) <= keeping.minimum_operating);
                prop_assert!(keeping.minimum_operating <= keeping.minimum_starting);
                prop_assert!(keeping.minimum_starting <= keeping.memory);
                prop_assert!(!(keeping.pinned && keeping.is_soaker()));
                if let Some(thresholds) = keeping.thresholds {
                    prop_assert!(thresholds.drain_below <= thresholds.fill_above);
                    prop_assert!(thresholds.fill_above <= keeping.memory);
                }
                for (asked, kept) in [
                    (settings.minimum_operating, keeping.minimum_operating),
                    (settings.minimum_starting, keeping.minimum_starting),
                ] {
                    prop_assert!(asked.is_none_or(|asked| Pages::covering(asked) == kept));
                }
            }
        }

        /// Who does as a refusal says gets through, at the latest after as many refusals as there are settings.
        #[test]
        fn a_refusal_names_what_helps(settings in settings(), memory in amount()) {
            let (mut settings, mut memory) = (settings, memory);
            for _ in 0..8 {
                match Keeping::new(&settings, memory) {
                    Ok(_) => return Ok(()),
                    Err(error) => follow(error, &mut settings, &mut memory),
                }
            }
            prop_assert!(false, "still refused: {settings:?} with {memory}");
        }
    }

    /// Does what the refusal's text tells.
    fn follow(error: SettingsError, settings: &mut MemorySettings, size: &mut Bytes) {
        let set = |fill_above, drain_below| Some(MemoryThresholds { fill_above, drain_below });
        match error {
            SettingsError::MemoryTooSmall { .. } => *size = FLOOR,
            SettingsError::OperatingTooSmall { .. } => settings.minimum_operating = Some(FLOOR),
            SettingsError::OperatingAboveMemory { memory, .. } => settings.minimum_operating = Some(memory),
            SettingsError::StartingAboveMemory { memory, .. } => settings.minimum_starting = Some(memory),
            SettingsError::StartingBelowOperating { operating, .. } => settings.minimum_starting = Some(operating),
            SettingsError::PinnedSoaker => settings.pinned = false,
            SettingsError::PinnedWithThresholds => settings.thresholds = None,
            SettingsError::ThresholdsCrossed { fill_above, .. } => settings.thresholds = set(fill_above, fill_above),
            SettingsError::DrainTooSmall { .. } => {
                let fill_above = settings.thresholds.map_or(FLOOR, |asked| asked.fill_above.max(FLOOR));
                settings.thresholds = set(fill_above, FLOOR);
            }
            SettingsError::FillAboveMemory { .. } => {
                settings.thresholds = None;
                settings.pinned = settings.mode == MemoryMode::Generic;
            }
        }
    }

    #[test]
    fn an_instance_goes_before_its_account_and_an_account_before_moving_thresholds() {
        let prices = Prices { thresholds: Some(ThresholdShares::new(500, 250).unwrap()), ..Prices::default() };
        let keeping = |settings: MemorySettings| {
            let keeping = Keeping::new(&settings, Bytes::mib(256)).unwrap().agreed(&prices);
            assert_eq!(Keeping::new(&keeping.told(&settings), Bytes::mib(256)).unwrap(), keeping);
            keeping
        };
        let agreed = Thresholds { fill_above: Pages::mib(128), drain_below: Pages::mib(64) };
        assert_eq!(keeping(MemorySettings::default()).thresholds, Some(agreed));
        let own = MemoryThresholds { fill_above: Bytes::mib(100), drain_below: Bytes::mib(100) };
        let own = keeping(MemorySettings { thresholds: Some(own), ..MemorySettings::default() });
        assert_eq!(own.thresholds, Some(Thresholds { fill_above: Pages::mib(100), drain_below: Pages::mib(100) }));
        assert_eq!(keeping(MemorySettings { pinned: true, ..MemorySettings::default() }).thresholds, None);
        assert_eq!(keeping(MemorySettings { mode: MemoryMode::Soaker, ..MemorySettings::default() }).thresholds, None);
    }

    #[test]
    fn a_soaker_has_no_higher_priority_than_was_agreed() {
        let prices = Prices { priority: Priority(60), ..Prices::default() };
        let asked = |mode, priority| MemorySettings { mode, priority: Priority(priority), ..MemorySettings::default() };
        let refused = PriorityTooHigh { asked: Priority(61), most: Priority(60) };
        assert_eq!(check_agreed(&asked(MemoryMode::Soaker, 61), &prices), Err(refused));
        assert_eq!(check_agreed(&asked(MemoryMode::Soaker, 60), &prices), Ok(()));
        assert_eq!(check_agreed(&asked(MemoryMode::Generic, 61), &prices), Ok(()));
        let earlier = Keeping::new(&asked(MemoryMode::Soaker, 90), Bytes::mib(256)).unwrap();
        assert_eq!(earlier.agreed(&prices).priority, Priority(60), "what was agreed later holds for it too");
    }

    #[test]
    fn what_was_not_asked_for_is_an_eighth_and_a_quarter() {
        let keeping = Keeping::new(&MemorySettings::default(), Bytes::mib(256)).unwrap();
        assert_eq!((keeping.minimum_operating, keeping.minimum_starting), (Pages::mib(32), Pages::mib(64)));
        let asked = MemorySettings { minimum_starting: Some(Bytes::mib(16)), ..MemorySettings::default() };
        let keeping = Keeping::new(&asked, Bytes::mib(256)).unwrap();
        assert_eq!((keeping.minimum_operating, keeping.minimum_starting), (Pages::mib(16), Pages::mib(16)));
    }

    #[test]
    fn a_start_that_would_be_a_pause_is_refused_in_words() {
        let asked = MemorySettings {
            mode: MemoryMode::Soaker,
            minimum_operating: Some(Bytes::mib(96)),
            minimum_starting: Some(Bytes::mib(64)),
            ..MemorySettings::default()
        };
        let error = Keeping::new(&asked, Bytes::mib(256)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the minimum starting amount 64 MiB is below the minimum operating amount 96 MiB: what starts would be paused at \
             once; raise the first or lower the second"
        );
    }
}
