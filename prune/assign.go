package prune

import "math"

// assign solves the linear assignment problem: for gain [n, n] row-major it
// returns for every row a column of its own such that the sum of gains is
// largest. Shortest augmenting paths with potentials (Kuhn, Munkres; O(n^3)).
func assign(gain []float64, n int) []int {
	// Rows and columns count from 1; column 0 is the free row that is being placed.
	u, v := make([]float64, n+1), make([]float64, n+1)
	row, way := make([]int, n+1), make([]int, n+1)
	dist, done := make([]float64, n+1), make([]bool, n+1)
	for i := 1; i <= n; i++ {
		row[0] = i
		for j := range dist {
			dist[j], done[j] = math.Inf(1), false
		}
		j := 0
		for row[j] != 0 {
			done[j] = true
			r, next, best := row[j], 0, math.Inf(1)
			for c := 1; c <= n; c++ {
				if done[c] {
					continue
				}
				if d := -gain[(r-1)*n+c-1] - u[r] - v[c]; d < dist[c] {
					dist[c], way[c] = d, j
				}
				if dist[c] < best {
					best, next = dist[c], c
				}
			}
			for c := range done {
				if done[c] {
					u[row[c]] += best
					v[c] -= best
				} else {
					dist[c] -= best
				}
			}
			j = next
		}
		for j != 0 {
			row[j] = row[way[j]]
			j = way[j]
		}
	}
	out := make([]int, n)
	for c := 1; c <= n; c++ {
		out[row[c]-1] = c - 1
	}
	return out
}
