//! Standing requests at the office: each time once, also over kills, and for nobody's guests but those that it is of.

use lucarne_seal::{
    health::{Figure, Measure, Watch},
    standing::{Occurrence, Rhythm, Scope, Seed, Standing, StandingTerms, occurrence_id},
};

use super::*;

const MINUTE: Duration = Duration::from_secs(60);

fn standing(bed: &Bed, scope: Scope, by: u8) -> Envelope {
    standing_with(bed, scope, by, Rhythm::Every(60.try_into().unwrap()))
}
fn standing_with(bed: &Bed, scope: Scope, by: u8, rhythm: Rhythm) -> Envelope {
    let Terms { target, nonce, result, purpose, lowest_policy, .. } = bed.terms();
    let terms = StandingTerms {
        host: target.host,
        host_key: target.host_key,
        scope,
        rhythm,
        not_before: NOW,
        not_after: NOW.plus(HOUR),
        nonce,
        result,
        kept_seconds: 120.try_into().unwrap(),
        purpose,
        lowest_policy,
    };
    key(by).sign(&Standing::new(read(64), terms).unwrap()).unwrap()
}

fn take(bed: &mut Bed, standing: &Envelope) -> RequestId {
    match bed.office.take(&octets(standing), Some(TENANT), clocks()) {
        Taken::Stands { request } => request,
        other => panic!("it does not stand: {other:?}"),
    }
}

fn due(bed: &mut Bed, after: Duration) -> Vec<Work> {
    bed.office.due(clocks_at(NOW.plus(after)), 8)
}

fn times(bed: &Bed, id: &RequestId, carrier: Carrier) -> Option<Vec<Digest>> {
    match bed.office.look(id.digest(), carrier, NOW) {
        SealAnswer::Standing { standing: SealStanding::Stands { times, .. } } => Some(times),
        SealAnswer::Unknown => None,
        other => panic!("it does not stand: {other:?}"),
    }
}

fn finish(bed: &mut Bed, work: &Work, after: Duration) {
    let done = seal(work, &work.out, b"a secret");
    let result = tally(&work.out).unwrap();
    bed.office.end(&work.id, Ok(Carried::unquoted(work, done, result)), NOW.plus(after));
}

#[test]
fn each_time_is_carried_out_once_also_after_a_kill_and_its_result_goes_when_its_time_is_over() {
    let mut bed = Bed::new();
    let envelope = standing(&bed, Scope::Account(TENANT), 3);
    let id = take(&mut bed, &envelope);
    assert_eq!(id, RequestId::of(&envelope));
    assert_eq!((bed.newest().request, bed.newest().verdict), (id.clone(), Verdict::Allowed));
    assert!(matches!(bed.office.take(&octets(&envelope), Some(TENANT), clocks()), Taken::Refused { .. }));

    let [first] = due(&mut bed, Duration::ZERO).try_into().expect("one guest, one work");
    let of = Occurrence { number: 0, instance: bed.terms().target.instance };
    assert_eq!(first.id, occurrence_id(&id, &of));
    assert!(due(&mut bed, MINUTE / 2).is_empty(), "once");
    finish(&mut bed, &first, MINUTE / 2);
    assert_eq!(times(&bed, &id, Some(TENANT)), Some(vec![first.id.digest().clone()]));
    assert_eq!(times(&bed, &id, Some(OTHER)), None);
    let SealAnswer::Standing { standing: SealStanding::Over { receipt, .. } } =
        bed.office.look(first.id.digest(), Some(TENANT), NOW)
    else {
        panic!("it is not over")
    };
    let receipt: Envelope = canonical::read(&receipt).unwrap();
    let host_key = bed.office.keys.of(Layer::Guest).public();
    let receipt = Receipt::open(&receipt, &host_key, &envelope).expect("the standing request shows whose it is");
    assert_eq!(receipt.occurrence, Some(of));

    // A kill before the second, and one in its midst: it is not tried again, and the third comes.
    let mut bed = bed.killed();
    let [second] = due(&mut bed, MINUTE).try_into().expect("the second");
    let mut bed = bed.killed();
    assert_eq!(bed.over(&second.id).0.outcome, Outcome::Failed);
    assert!(due(&mut bed, MINUTE + MINUTE / 2).is_empty());
    let [third] = due(&mut bed, 2 * MINUTE).try_into().expect("the third");
    finish(&mut bed, &third, 2 * MINUTE);
    bed.office.tick(clocks_at(NOW.plus(3 * MINUTE)));
    assert!(times(&bed, &id, None).unwrap().contains(third.id.digest()));
    assert!(!times(&bed, &id, None).unwrap().contains(first.id.digest()), "its two minutes are over");
    bed.office.tick(clocks_at(NOW.plus(HOUR + 3 * MINUTE)));
    assert_eq!(times(&bed, &id, None), None);
    assert!(due(&mut bed, HOUR + 3 * MINUTE).is_empty());
}

#[test]
fn a_standing_request_whose_line_a_kill_cut_off_does_not_stand() {
    let mut bed = Bed::new();
    let envelope = standing(&bed, Scope::Account(TENANT), 3);
    let id = take(&mut bed, &envelope);
    let register = bed.place.path().join("seals/register");
    let written = fs::metadata(&register).unwrap().len();
    fs::OpenOptions::new().write(true).open(&register).unwrap().set_len(written - 1).unwrap();
    let mut bed = bed.killed();
    assert_eq!(times(&bed, &id, None), None);
    assert!(due(&mut bed, MINUTE).is_empty());
    take(&mut bed, &envelope);
}

/// Attack: a standing request that was good goes on when its signer's key or grant is gone.
#[test]
fn it_ends_with_the_policy_that_allowed_it_and_the_log_says_so_once() {
    let mut bed = Bed::new();
    let envelope = standing(&bed, Scope::Account(TENANT), 3);
    take(&mut bed, &envelope);
    let mut next = policy();
    next.version += 1;
    next.revoked.insert(key(3).public().id());
    bed.office.take_policy(&octets(&key(90).sign(&next).unwrap()).into());
    let size = |bed: &Bed| bed.office.register.head(HOST, NOW).size;
    let before = size(&bed);
    assert!(due(&mut bed, Duration::ZERO).is_empty() && due(&mut bed, MINUTE / 2).is_empty());
    assert_eq!(bed.newest().verdict, Verdict::Refused(ErrorCode::SealKeyRevoked));
    assert_eq!(size(&bed), before + 1);
}

#[test]
fn of_others_guests_nothing_is_taken_and_what_finds_no_room_is_due_again() {
    let mut bed = Bed::new();
    let stolen = standing(&bed, Scope::Account(TENANT), 4);
    assert!(matches!(bed.office.take(&octets(&stolen), Some(OTHER), clocks()), Taken::Refused { .. }));
    let second = Present { instance: InstanceId::from_bits(8), account: TENANT, generation: 1, life: Life::Runs };
    let foreign = Present { instance: InstanceId::from_bits(9), account: OTHER, generation: 1, life: Life::Runs };
    let own = Present { instance: INSTANCE, account: TENANT, generation: 2, life: Life::Runs };
    bed.office.see(Arc::new(vec![own, second, foreign]), NOW);
    let envelope = standing(&bed, Scope::Account(TENANT), 3);
    take(&mut bed, &envelope);
    let first = bed.office.due(clocks(), 1);
    let rest = bed.office.due(clocks(), 8);
    let targets: Vec<_> = first.iter().chain(&rest).filter_map(|work| work.instance.map(|target| target.id)).collect();
    assert_eq!(targets, [INSTANCE, second.instance]);
    assert!(bed.office.due(clocks(), 8).is_empty());
}

/// Attack: a tenant learns from a time that was refused that it is under investigation.
#[test]
fn what_is_under_embargo_stays_so_when_one_of_its_times_is_refused() {
    let mut next = policy();
    next.embargoes.push(Embargo { person: "alice".parse().unwrap(), account: AccountId::OPERATOR, seconds: 3600 });
    let mut bed = Bed::with(next.clone());
    let envelope = standing(&bed, Scope::Account(TENANT), 1);
    take(&mut bed, &envelope);
    next.version += 1;
    next.revoked.insert(key(1).public().id());
    bed.office.take_policy(&octets(&key(90).sign(&next).unwrap()).into());
    assert!(due(&mut bed, Duration::ZERO).is_empty());
    let SealAnswer::Log { log } = bed.office.tell_log((0, None), None, None, NOW) else { panic!("no log") };
    assert_eq!(log.entries.len(), 2);
    for told in log.entries {
        let entry: lucarne_seal::log::Entry = canonical::read(&told.entry).unwrap();
        assert!(matches!(entry.content, Content::Sealed { .. }) && told.opening.is_none());
    }
}

/// What is unusual of a guest is a time of the requests that watch it, once in each span, and of no other guest.
#[test]
fn something_unusual_is_answered_at_once_and_once_in_its_span() {
    let mut bed = Bed::new();
    let threshold = (Measure::Processors, 500.try_into().unwrap());
    let watch = Watch { seconds: 60.try_into().unwrap(), thresholds: BTreeMap::from([threshold]), deviations: None };
    let watching = standing_with(&bed, Scope::Account(TENANT), 3, Rhythm::Unusual(watch));
    take(&mut bed, &watching);
    let mut see = |of: Option<InstanceId>, value, after: u64| {
        let figure = Figure { measure: Measure::Processors, value, usual: None, deviations: 0 };
        let figures = BTreeMap::from([(of, vec![figure])]);
        let works = bed.office.unusual(&figures, clocks_at(NOW.plus(Duration::from_secs(after))), 8);
        works.into_iter().map(|work| work.instance.unwrap().id).collect::<Vec<_>>()
    };
    assert_eq!(see(Some(INSTANCE), 500, 1), []);
    assert_eq!(see(None, 900, 2), [], "that is the host");
    assert_eq!(see(Some(InstanceId::from_bits(8)), 900, 2), [], "that is nobody's");
    assert_eq!(see(Some(INSTANCE), 900, 3), [INSTANCE]);
    assert_eq!(see(Some(INSTANCE), 900, 4), [], "in the same span");
    assert_eq!(see(Some(INSTANCE), 900, 61), [INSTANCE]);
    assert_eq!(see(Some(INSTANCE), 900, 3601), [], "it is over");
    assert!(due(&mut bed, MINUTE).is_empty());
}

#[test]
fn what_the_instants_of_samples_follow_from_is_shown_when_there_are_no_more() {
    let mut bed = Bed::new();
    let sampled = standing_with(&bed, Scope::Account(TENANT), 3, Rhythm::Sampled(60.try_into().unwrap()));
    let id = take(&mut bed, &sampled);
    let shown = |after| match bed.office.look(id.digest(), Some(TENANT), NOW.plus(after)) {
        SealAnswer::Standing { standing: SealStanding::Stands { sampling, .. } } => sampling,
        other => panic!("{other:?}"),
    };
    assert_eq!(shown(HOUR), None);
    let envelope: Envelope = canonical::read(&shown(HOUR + Duration::from_secs(1)).unwrap()).unwrap();
    let seed = Seed::shown(&envelope, &bed.office.keys.of(Layer::Guest).public(), &id).unwrap();
    let standing: Standing = canonical::read(&sampled.payload).unwrap();
    let (number, first) = standing.next(NOW, &seed).unwrap();
    assert_eq!(bed.office.next_due(), standing.due(number, &seed).filter(|due| *due == first));
}
