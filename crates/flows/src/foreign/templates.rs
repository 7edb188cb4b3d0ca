//! The templates of one exporter, by domain and number, within a bound.
//!
//! Owns what is forgotten when an exporter sends more than fit: those that were not used longest. An exporter so harms
//! nobody but itself.

use std::collections::HashMap;

use super::plan::Plan;

/// Octets of plans that one exporter may have remembered.
const MOST: usize = 256 * 1024;

#[derive(Debug, Default)]
pub(super) struct Templates {
    plans: HashMap<(u32, u16), Kept>,
    weight: usize,
    uses: u64,
}

#[derive(Debug)]
struct Kept {
    plan: Plan,
    used: u64,
}

impl Templates {
    pub(super) fn put(&mut self, domain: u32, number: u16, plan: Plan) {
        self.remove(domain, number);
        self.weight += plan.weight();
        self.uses += 1;
        self.plans.insert((domain, number), Kept { plan, used: self.uses });
        while self.weight > MOST {
            let oldest = self.plans.iter().min_by_key(|(_, kept)| kept.used).map(|(key, _)| *key);
            let Some((domain, number)) = oldest else { break };
            self.remove(domain, number);
        }
    }

    pub(super) fn remove(&mut self, domain: u32, number: u16) {
        if let Some(kept) = self.plans.remove(&(domain, number)) {
            self.weight -= kept.plan.weight();
        }
    }

    /// Withdraws all options templates of a domain, or all others.
    pub(super) fn remove_all(&mut self, domain: u32, options: bool) {
        let is_meant = |of: u32, kept: &Kept| of == domain && kept.plan.kind().is_options() == options;
        let meant = self.plans.iter().filter(|((of, _), kept)| is_meant(*of, kept));
        let numbers: Vec<u16> = meant.map(|((_, number), _)| *number).collect();
        numbers.into_iter().for_each(|number| self.remove(domain, number));
    }

    pub(super) fn get(&mut self, domain: u32, number: u16) -> Option<&Plan> {
        self.uses += 1;
        let kept = self.plans.get_mut(&(domain, number))?;
        kept.used = self.uses;
        Some(&kept.plan)
    }

    #[cfg(test)]
    pub(super) const fn weight(&self) -> usize {
        self.weight
    }

    #[cfg(test)]
    pub(super) const MOST: usize = MOST;
}
