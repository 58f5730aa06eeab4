package engine

// queue holds waiting jobs: each client's in the order of their arrival, the clients
// by turns, so that one who sends a thousand does not hold up one who sends one.
// Jobs that were preempted come before all others, the oldest first.
type queue struct {
	resumed []*job
	clients map[string]*line
	turn    []*line // of clients that wait, the next first
	n       int     // without resumed
}

type line struct {
	client string
	jobs   []*job
}

func (q *queue) push(j *job) {
	if q.clients == nil {
		q.clients = map[string]*line{}
	}
	l := q.clients[j.Client]
	if l == nil {
		l = &line{client: j.Client}
		q.clients[j.Client] = l
		q.turn = append(q.turn, l)
	}
	l.jobs = append(l.jobs, j)
	q.n++
}

// of is how many of a client's jobs wait.
func (q *queue) of(client string) int {
	if l := q.clients[client]; l != nil {
		return len(l.jobs)
	}
	return 0
}

// resume puts a preempted job before those that have not begun.
func (q *queue) resume(j *job) {
	at := 0
	for at < len(q.resumed) && q.resumed[at].order < j.order {
		at++
	}
	q.resumed = append(q.resumed, nil)
	copy(q.resumed[at+1:], q.resumed[at:])
	q.resumed[at] = j
}

func (q *queue) len() int { return q.n + len(q.resumed) }

// peek is the job whose turn it is; nil: nobody waits.
func (q *queue) peek() *job {
	if len(q.resumed) > 0 {
		return q.resumed[0]
	}
	if len(q.turn) > 0 {
		return q.turn[0].jobs[0]
	}
	return nil
}

// pop takes peek's job out; its client is last in turn then.
func (q *queue) pop() {
	if len(q.resumed) > 0 {
		q.resumed = q.resumed[1:]
		return
	}
	l := q.turn[0]
	l.jobs[0] = nil
	l.jobs = l.jobs[1:]
	q.n--
	q.turn = append(q.turn[1:], l)
	if len(l.jobs) == 0 {
		q.turn = q.turn[:len(q.turn)-1]
		delete(q.clients, l.client)
	}
}

// sweep takes out the jobs that f says to.
func (q *queue) sweep(f func(*job) bool) {
	keep := func(jobs []*job) []*job {
		out := jobs[:0]
		for _, j := range jobs {
			if !f(j) {
				out = append(out, j)
			}
		}
		clear(jobs[len(out):])
		return out
	}
	q.resumed = keep(q.resumed)
	q.n = 0
	turn := q.turn[:0]
	for _, l := range q.turn {
		if l.jobs = keep(l.jobs); len(l.jobs) == 0 {
			delete(q.clients, l.client)
			continue
		}
		q.n += len(l.jobs)
		turn = append(turn, l)
	}
	clear(q.turn[len(turn):])
	q.turn = turn
}
