use super::*;
use crate::schedule::memory_place::SplitMix;

fn request(id: u32, bytes: u64, first: u32, last: u32) -> Request {
    Request { id: BufferId(id), bytes, first, last, in_place: None }
}

/// Every two buffers alive together are apart, or one has taken the other over; all lie in the arena.
fn assert_sound(requests: &[Request], plan: &Plan) {
    let rounded = |i: usize| requests[i].bytes.next_multiple_of(LINE);
    let mut order: Vec<usize> = (0..requests.len()).filter(|&i| requests[i].bytes > 0).collect();
    order.sort_by_key(|&i| requests[i].first);
    let mut alive: Vec<usize> = vec![];
    for i in order {
        let (r, s) = (&requests[i], &plan.spots[i]);
        assert!(s.offset % LINE == 0 && s.offset + rounded(i) <= plan.arena_bytes);
        alive.retain(|&j| requests[j].last >= r.first);
        for &j in &alive {
            let t = &plan.spots[j];
            let apart = s.offset + rounded(i) <= t.offset || t.offset + rounded(j) <= s.offset;
            assert!(apart || s.alias_of == Some(t.id) && s.offset == t.offset, "{r:?} {s:?} {t:?}");
        }
        alive.push(i);
    }
    assert!(plan.arena_bytes >= plan.max_live_bytes);
}

const QUICK: Effort = Effort { seed: 0, steps: 40_000 };

fn planned(requests: &[Request]) -> Plan {
    let plan = plan(requests, QUICK).unwrap();
    assert_sound(requests, &plan);
    plan
}

/// A perfect packing of `height` lines × `width` positions, cut at random: the best arena is known.
fn guillotine(seed: u64, cuts: usize, height: u64, width: u32) -> Vec<Request> {
    let mut random = SplitMix(seed);
    let mut pieces = vec![(height, 0u32, width)];
    while pieces.len() < cuts {
        // The largest of three pieces is cut, so that sizes stay comparable.
        let pick = (0..3).map(|_| random.below(pieces.len() as u64) as usize);
        let at = pick.max_by_key(|&k| pieces[k].0 * u64::from(pieces[k].2 - pieces[k].1)).unwrap();
        let (h, a, b) = pieces[at];
        if random.below(2) == 0 && h > 1 {
            let cut = 1 + random.below(h - 1);
            pieces[at] = (cut, a, b);
            pieces.push((h - cut, a, b));
        } else if b - a > 1 {
            let cut = a + 1 + random.below(u64::from(b - a - 1)) as u32;
            pieces[at] = (h, a, cut);
            pieces.push((h, cut, b));
        }
    }
    let piece = |(i, &(h, a, b)): (usize, &(u64, u32, u32))| request(i as u32, h * LINE, a, b - 1);
    pieces.iter().enumerate().map(piece).collect()
}

#[test]
fn a_chain_needs_two_buffers() {
    let requests: Vec<Request> = (0..100).map(|i| request(i, 1000, i, i + 1)).collect();
    let plan = planned(&requests);
    assert_eq!((plan.arena_bytes, plan.max_live_bytes), (2048, 2048));
}

#[test]
fn in_place_chains_need_one() {
    let mut requests: Vec<Request> = (0..100).map(|i| request(i, 1000, i, i + 1)).collect();
    for (i, r) in requests.iter_mut().enumerate().skip(1) {
        r.in_place = Some(BufferId(i as u32 - 1));
    }
    let plan = planned(&requests);
    assert_eq!((plan.arena_bytes, plan.max_live_bytes), (1024, 1024));
    assert_eq!(plan.spots[5].alias_of, Some(BufferId(4)));
}

#[test]
fn in_place_is_refused_where_it_would_clash() {
    // Two heirs of one buffer: the first takes it.
    let mut two = [request(0, 64, 0, 1), request(1, 64, 1, 2), request(2, 64, 1, 2)];
    (two[1].in_place, two[2].in_place) = (Some(BufferId(0)), Some(BufferId(0)));
    assert_eq!(planned(&two).spots[2].alias_of, None);
    // The grandparent lives on.
    let mut chain = [request(0, 64, 0, 9), request(1, 64, 1, 2), request(2, 64, 2, 3)];
    (chain[1].in_place, chain[2].in_place) = (Some(BufferId(0)), Some(BufferId(1)));
    assert_eq!(planned(&chain).spots[2].alias_of, None);
    // An heir of something that is not there, of itself, or of an empty buffer.
    let mut odd = [request(0, 64, 0, 1), request(1, 64, 1, 2), request(2, 0, 0, 1)];
    for of in [0, 2, 7] {
        odd[0].in_place = Some(BufferId(of));
        assert_eq!(planned(&odd).spots[0].alias_of, None);
    }
}

#[test]
fn a_small_heir_frees_the_rest() {
    let mut requests = [request(0, 6400, 0, 1), request(1, 64, 1, 9), request(2, 6336, 2, 9)];
    requests[1].in_place = Some(BufferId(0));
    let plan = planned(&requests);
    assert_eq!((plan.arena_bytes, plan.max_live_bytes), (6400, 6400));
}

#[test]
fn odd_sizes() {
    assert_eq!(planned(&[]).arena_bytes, 0);
    assert_eq!(planned(&[request(0, 0, 0, 5)]).arena_bytes, 0);
    assert_eq!(planned(&[request(0, 1, 0, u32::MAX), request(1, 65, 3, 3)]).arena_bytes, 192);
    let error = |requests: &[Request]| plan(requests, Effort::default()).unwrap_err();
    assert_eq!(error(&[request(0, u64::MAX, 0, 0)]), PlanError::TooLarge);
    assert_eq!(error(&[request(0, 1 << 62, 0, 0), request(1, 1 << 62, 1, 1)]), PlanError::TooLarge);
    assert_eq!(error(&[request(0, 1, 2, 1)]), PlanError::Lifetime(BufferId(0)));
    assert_eq!(
        error(&[request(0, 1, 0, 1), request(0, 1, 0, 1)]),
        PlanError::Duplicate(BufferId(0))
    );
}

#[test]
fn hard_instances_by_search() {
    let (mut with, mut without) = (0.0, 0.0);
    for seed in 0..4 {
        let requests = guillotine(seed, 60, 4000, 60);
        let searched = plan(&requests, Effort { seed, steps: 2_000_000 }).unwrap();
        assert_sound(&requests, &searched);
        let plain = plan(&requests, Effort { seed: 0, steps: 0 }).unwrap();
        assert_sound(&requests, &plain);
        assert_eq!(searched.max_live_bytes, 4000 * LINE);
        assert!(searched.arena_bytes <= plain.arena_bytes);
        with += (searched.arena_bytes as f64 / searched.max_live_bytes as f64).ln() / 4.0;
        without += (plain.arena_bytes as f64 / plain.max_live_bytes as f64).ln() / 4.0;
    }
    assert!(with.exp() < 1.06, "{}", with.exp());
    assert!(with < without * 0.4, "{} {}", with.exp(), without.exp());
}

#[test]
fn random_requests_are_sound_and_repeat() {
    for seed in 0..60 {
        let mut random = SplitMix(seed);
        let n = 1 + random.below(60) as u32;
        let mut requests: Vec<Request> = vec![];
        for id in 0..n {
            let first = random.below(40) as u32;
            let last = first + random.below(10) as u32;
            let mut r = request(id, random.below(2000), first, last);
            // Half of the buffers would like to follow one that ends where they begin.
            let old = requests.iter().find(|o| o.last == first && o.first < first);
            r.in_place = old.filter(|_| random.below(2) == 0).map(|o| o.id);
            requests.push(r);
        }
        let a = planned(&requests);
        assert_eq!(a, plan(&requests, QUICK).unwrap());
    }
}

#[test]
fn a_residual_network_is_easy() {
    // Blocks of three convolutions with a skip connection over them.
    let mut requests = vec![];
    let (mut id, mut t) = (0, 0);
    for block in 0..50u64 {
        let bytes = (4 << 20) >> (block / 15);
        requests.push(request(id, bytes, t, t + 3));
        requests.push(request(id + 1, bytes / 4, t + 1, t + 2));
        requests.push(request(id + 2, bytes / 4, t + 2, t + 3));
        (id, t) = (id + 3, t + 3);
    }
    let plan = planned(&requests);
    assert!(plan.arena_bytes as f64 <= 1.02 * plan.max_live_bytes as f64, "{plan:?}");
}

#[test]
fn a_hundred_thousand_buffers() {
    let mut random = SplitMix(1);
    let requests: Vec<Request> = (0..40_000u32)
        .map(|i| request(i, 64 + random.below(1 << 16), i, i + 1 + random.below(8) as u32))
        .collect();
    let plan = planned(&requests);
    assert!(plan.arena_bytes as f64 <= 1.3 * plan.max_live_bytes as f64);
    // And with more pairs than any adjacency could hold.
    let wide: Vec<Request> = (0..100_000u32).map(|i| request(i, 64, i, 200_000 - i)).collect();
    let groups = Groups::of(&wide).unwrap();
    assert!(groups.pairs() > PAIR_LIMIT);
    let (offsets, method) = place(&groups, groups.max_live(), Effort::default());
    assert_eq!((offsets.len(), method), (100_000, Method::Sweep));
}
