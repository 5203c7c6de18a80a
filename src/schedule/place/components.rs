//! Strongly connected components.

/// The component of each node, numbered so that a node only reads components of smaller numbers or
/// its own. `reads[n]` are the nodes that `n` reads. Tarjan 1972, with a stack of its own: graphs
/// are deep.
pub fn components(reads: &[Vec<usize>]) -> Vec<usize> {
    const NEW: usize = usize::MAX;
    let n = reads.len();
    let (mut number, mut low) = (vec![NEW; n], vec![0; n]);
    let (mut component, mut open, mut found) = (vec![NEW; n], vec![], 0);
    let mut next = 0;
    for root in 0..n {
        if number[root] != NEW {
            continue;
        }
        // A node, and how many of its reads were looked at.
        let mut walk = vec![(root, 0)];
        while let Some((node, at)) = walk.pop() {
            if at == 0 {
                (number[node], low[node]) = (next, next);
                next += 1;
                open.push(node);
            } else {
                low[node] = low[node].min(low[reads[node][at - 1]]);
            }
            let unseen = (at..reads[node].len()).find(|i| {
                let read = reads[node][*i];
                if number[read] != NEW && component[read] == NEW {
                    low[node] = low[node].min(number[read]);
                }
                number[read] == NEW
            });
            if let Some(i) = unseen {
                walk.push((node, i + 1));
                walk.push((reads[node][i], 0));
                continue;
            }
            if low[node] == number[node] {
                let start = open.iter().rposition(|m| *m == node).expect("an open node");
                open.drain(start..).for_each(|m| component[m] = found);
                found += 1;
            }
        }
    }
    component
}

#[cfg(test)]
mod tests {
    use super::components;

    #[test]
    fn circles_are_one() {
        // 0 → 1 → 2 → 0, 3 reads 2, 4 reads itself and 3.
        let found = components(&[vec![1], vec![2], vec![0], vec![2], vec![4, 3]]);
        assert_eq!(found, [0, 0, 0, 1, 2]);
        assert_eq!(components(&[vec![], vec![0, 2], vec![0]]), [0, 2, 1]);
    }

    #[test]
    fn deep_chains_take_no_stack() {
        let n = 200_000;
        let reads: Vec<Vec<usize>> =
            (0..n).map(|i| if i + 1 < n { vec![i + 1] } else { vec![] }).collect();
        assert_eq!(components(&reads)[0], n - 1);
    }
}
