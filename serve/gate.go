package serve

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// gate is a listener that holds at most limit connections. One more takes the place of
// the connection that has been without a request in work for longest (idle ones, slow
// senders of headers), so that no number of idle connections locks others out; where all
// are at work the new one is closed. Connections of a server that does not call enter
// and leave (gRPC) are never taken away.
type gate struct {
	net.Listener
	limit   int
	evict   bool
	mu      sync.Mutex
	conns   map[*gateConn]struct{}
	refused atomic.Int64
	evicted atomic.Int64
}

type gateConn struct {
	net.Conn
	g     *gate
	busy  int       // requests in work; guarded by g.mu
	since time.Time // of the last change of busy; guarded by g.mu
	once  sync.Once
}

func newGate(l net.Listener, limit int, evict bool) *gate {
	return &gate{Listener: l, limit: limit, evict: evict, conns: map[*gateConn]struct{}{}}
}

// Accept waits for the next connection that is let in.
func (g *gate) Accept() (net.Conn, error) {
	for {
		c, err := g.Listener.Accept()
		if err != nil {
			return nil, err
		}
		gc := &gateConn{Conn: c, g: g, since: time.Now()}
		g.mu.Lock()
		full := len(g.conns) >= g.limit
		var victim *gateConn
		if full && g.evict {
			for o := range g.conns {
				if o.busy == 0 && (victim == nil || o.since.Before(victim.since)) {
					victim = o
				}
			}
		}
		if !full || victim != nil {
			g.conns[gc] = struct{}{}
			if victim != nil {
				delete(g.conns, victim)
			}
		}
		g.mu.Unlock()
		switch {
		case victim != nil:
			g.evicted.Add(1)
			victim.Close()
		case full:
			g.refused.Add(1)
			c.Close()
			continue
		}
		return gc, nil
	}
}

// Close of a connection makes room.
func (c *gateConn) Close() error {
	c.once.Do(func() {
		c.g.mu.Lock()
		delete(c.g.conns, c)
		c.g.mu.Unlock()
	})
	return c.Conn.Close()
}

// work says that a request begins (1) or ends (-1).
func (c *gateConn) work(d int) {
	c.g.mu.Lock()
	c.busy += d
	c.since = time.Now()
	c.g.mu.Unlock()
}

// open is the number of connections.
func (g *gate) open() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.conns)
}

// connContext is http.Server.ConnContext: requests find their connection.
func connContext(ctx context.Context, c net.Conn) context.Context {
	if t, ok := c.(interface{ NetConn() net.Conn }); ok { // TLS
		c = t.NetConn()
	}
	if gc, ok := c.(*gateConn); ok {
		return context.WithValue(ctx, connKey{}, gc)
	}
	return ctx
}

type connKey struct{}
