//! Which kernel modules must be loaded, and in which order, before a wanted one can be.
//!
//! A package of a kernel has no `modules.dep` (that is made where it is installed), so the order comes from what each
//! module says of itself: `depends=` in its section `.modinfo`. Pure; finding and reading modules is the caller's work.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

/// The name that Linux knows a module by, from the name of its file: `virtio-rng` is `virtio_rng`.
pub(super) fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

/// The names of the modules that a module asks for; none if it is not a module.
pub(super) fn depends(module: &[u8]) -> Option<Vec<String>> {
    let text = module.split(|byte| *byte == 0).find_map(|text| text.strip_prefix(b"depends="))?;
    let names = std::str::from_utf8(text).ok()?;
    Some(names.split(',').filter(|name| !name.is_empty()).map(canonical).collect())
}

/// `wanted` and all that they need, each once and after what it needs. `depends_of` answers with what one module needs.
pub(super) fn load_order<E>(
    wanted: &[&str],
    mut depends_of: impl FnMut(&str) -> Result<Vec<String>, E>,
) -> Result<Vec<String>, E> {
    let mut order = vec![];
    let mut open: Vec<(String, bool)> = wanted.iter().rev().map(|name| (canonical(name), false)).collect();
    let mut seen = std::collections::BTreeSet::new();
    while let Some((name, visited)) = open.pop() {
        if visited {
            order.push(name);
        } else if seen.insert(name.clone()) {
            let needs = depends_of(&name)?;
            open.push((name, true));
            open.extend(needs.into_iter().rev().map(|need| (need, false)));
        }
    }
    Ok(order)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(wanted: &[&str], table: &[(&str, &str)]) -> Result<Vec<String>, String> {
        load_order(wanted, |name| {
            let (_, needs) = table.iter().find(|(module, _)| *module == name).ok_or(name)?;
            Ok(needs.split_whitespace().map(str::to_owned).collect())
        })
    }

    #[test]
    fn a_module_comes_once_and_after_all_that_it_needs() {
        let table = [
            ("virtio_ring", ""),
            ("virtio", "virtio_ring"),
            ("virtio_pci", "virtio virtio_ring"),
            ("virtio_net", "virtio_ring virtio net_failover"),
            ("net_failover", "failover"),
            ("failover", ""),
        ];
        assert_eq!(
            order(&["virtio-pci", "virtio-net"], &table).unwrap(),
            ["virtio_ring", "virtio", "virtio_pci", "failover", "net_failover", "virtio_net"]
        );
    }

    #[test]
    fn modules_that_need_each_other_do_not_hang_the_build() {
        assert_eq!(order(&["a"], &[("a", "b"), ("b", "a")]).unwrap(), ["b", "a"]);
    }

    #[test]
    fn a_missing_module_is_named() {
        assert_eq!(order(&["a"], &[("a", "lost")]).unwrap_err(), "lost");
    }

    #[test]
    fn a_module_says_what_it_needs() {
        let module = b"\x7fELF\0\0license=GPL\0depends=virtio,crc-t10dif\0name=x\0";
        assert_eq!(depends(module).unwrap(), ["virtio", "crc_t10dif"]);
        assert_eq!(depends(b"\0depends=\0").unwrap(), [""; 0]);
        assert_eq!(depends(b"\0name=x\0"), None);
    }
}
