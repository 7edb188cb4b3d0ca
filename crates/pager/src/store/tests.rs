//! Tests of [`super`]: what is kept comes back, and only that; what is not needed is given back to the disk.

use std::{collections::BTreeMap, os::unix::fs::MetadataExt};

use lucarne_model::InstanceId;

use super::*;

fn store(folder: &tempfile::TempDir) -> Store {
    let file = crate::disk::open(&folder.path().join("store")).unwrap();
    Store::new(file, Sealer::new([1; 32], InstanceId::from_bits(5)).unwrap())
}

fn content(page: u64) -> Page {
    let mut content = Page::ZERO;
    content.fill(page.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    content
}

fn keep(store: &Store, disk: &mut Disk, pages: std::ops::Range<u64>) -> Vec<(u64, Copy)> {
    let numbered: Vec<(u64, u64)> = pages.clone().map(|page| (page, 1000 + page)).collect();
    let mut contents: Vec<Page> = pages.clone().map(content).collect();
    let copies = store.keep(disk, &numbered, &mut contents).unwrap();
    pages.zip(copies).map(|(page, (copy, _))| (page, copy)).collect()
}

fn check(store: &Store, disk: &mut Disk, copies: &[(u64, Copy)]) {
    let mut contents = crate::page::zeroed(copies.len());
    store.fetch(disk, copies, &mut contents).unwrap();
    assert!(copies.iter().zip(&contents).all(|((page, _), found)| found.0 == content(*page).0));
}

#[test]
fn pages_come_back_as_they_went_and_those_that_left_together_lie_together() {
    let folder = tempfile::tempdir().unwrap();
    let (store, mut disk) = (store(&folder), Disk::new());
    let copies = keep(&store, &mut disk, 0..700);
    check(&store, &mut disk, &copies);
    assert!(copies.windows(2).all(|pair| pair[0].1.at + 1 == pair[1].1.at));
    assert_eq!(store.size(), 2 * EXTENT_BYTES);
}

#[test]
fn an_empty_extent_is_given_back_to_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let (store, mut disk) = (store(&folder), Disk::new());
    let copies = keep(&store, &mut disk, 0..3 * EXTENT as u64);
    let blocks = || store.file.metadata().unwrap().blocks();
    let (before, before_free) = (blocks(), store.size());
    copies[..EXTENT].iter().for_each(|(_, copy)| store.free(copy.at));
    assert_eq!(store.size(), before_free, "not while a page is being fetched");
    store.give_back_empty();
    assert_eq!(store.size(), 2 * EXTENT_BYTES);
    assert!(blocks() <= before - EXTENT_BYTES / 512, "{} of {before}", blocks());
    check(&store, &mut disk, &copies[EXTENT..]);
    // The next pages take its place.
    keep(&store, &mut disk, 5000..5000 + EXTENT as u64);
    assert_eq!(store.size(), 3 * EXTENT_BYTES);
}

/// Taking an extent and giving it back costs the file system its journal: whoever comes and goes finds some there.
#[test]
fn some_empty_extents_are_kept_for_the_next_pages() {
    let folder = tempfile::tempdir().unwrap();
    let (store, mut disk) = (store(&folder), Disk::new());
    let copies = keep(&store, &mut disk, 0..16 * EXTENT as u64);
    copies[..3 * EXTENT].iter().for_each(|(_, copy)| store.free(copy.at));
    store.give_back_empty();
    assert_eq!(store.size(), 15 * EXTENT_BYTES, "two of sixteen are kept");
    keep(&store, &mut disk, 20_000..20_000 + 2 * EXTENT as u64);
    assert_eq!(store.size(), 15 * EXTENT_BYTES);
    check(&store, &mut disk, &copies[3 * EXTENT..]);
}

#[test]
fn what_is_left_of_a_sparse_extent_can_be_moved_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let (store, mut disk) = (store(&folder), Disk::new());
    let mut copies = keep(&store, &mut disk, 0..6 * EXTENT as u64);
    assert!(store.sparse().is_none(), "it is full");
    let (kept, gone): (Vec<_>, Vec<_>) = copies.drain(..).partition(|(page, _)| page % 16 == 0);
    gone.iter().for_each(|(_, copy)| store.free(copy.at));
    let mut kept: BTreeMap<u64, Copy> = kept.into_iter().collect();
    let mut rounds = 0;
    while let Some(sparse) = store.sparse() {
        let there = kept.iter().filter(|(_, copy)| sparse.contains(&copy.at));
        let pages: Vec<(u64, Copy)> = there.map(|(page, copy)| (*page, *copy)).collect();
        assert!((1..EXTENT / 2).contains(&pages.len()), "{} pages of it", pages.len());
        let moved = store.move_together(&mut disk, &pages).unwrap();
        for ((page, old), (new, _)) in pages.iter().zip(moved) {
            kept.insert(*page, new);
            store.free(old.at);
        }
        rounds += 1;
        assert!(rounds < 10, "it moves for ever");
    }
    store.give_back_empty();
    assert!(store.size() <= FEW_EXTENTS as u64 * EXTENT_BYTES, "{}", store.size());
    check(&store, &mut disk, &kept.into_iter().collect::<Vec<_>>());
}

/// A torn write, another page's copy, a copy of an earlier generation, an end that was cut off: none is taken for the page.
#[test]
fn a_copy_that_is_not_the_pages_is_never_handed_out() {
    let folder = tempfile::tempdir().unwrap();
    let (store, mut disk) = (store(&folder), Disk::new());
    let copies = keep(&store, &mut disk, 0..8);
    let mut room = crate::page::zeroed(1);
    let mut fails = |page, copy| store.fetch(&mut Disk::new(), &[(page, copy)], &mut room).unwrap_err().lost;
    let Copy { at, generation } = copies[2].1;
    assert!(matches!(fails(3, copies[2].1), Lost::Broken(_)));
    assert!(matches!(fails(2, Copy { at: copies[3].1.at, generation }), Lost::Broken(_)));
    assert!(matches!(fails(2, Copy { at, generation: generation - 1 }), Lost::Broken(_)));
    let torn = std::fs::OpenOptions::new().write(true).open(folder.path().join("store")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&torn, &[0; 512], place(at) + 1024).unwrap();
    assert!(matches!(fails(2, copies[2].1), Lost::Broken(_)));
    check(&store, &mut disk, &copies[3..]);
    torn.set_len(place(copies[7].1.at) + 100).unwrap();
    assert!(matches!(fails(7, copies[7].1), Lost::Unreadable(_)));
}

#[test]
fn a_new_pager_keeps_what_the_index_says_and_gives_back_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let mut disk = Disk::new();
    let before = store(&folder);
    let copies = keep(&before, &mut disk, 0..2 * EXTENT as u64);
    let after = store(&folder);
    for (_, copy) in &copies[..10] {
        after.remember(copy.at, before.proof(*copy));
    }
    after.keep_only(copies[..10].iter().map(|(_, copy)| copy.at)).unwrap();
    assert_eq!(after.size(), EXTENT_BYTES);
    check(&after, &mut disk, &copies[..10]);
    // No slot that counts is given to another page.
    keep(&after, &mut disk, 9000..9000 + EXTENT as u64);
    check(&after, &mut disk, &copies[..10]);
}
