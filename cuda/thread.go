package cuda

import (
	goruntime "runtime"
	"sync"
)

// deviceThread starts a goroutine that is locked to its thread. do runs a function
// there and waits for it; stop ends the goroutine.
func deviceThread() (do func(func() error) error, stop func()) {
	type job struct {
		f    func() error
		done chan error
	}
	jobs := make(chan job)
	go func() {
		goruntime.LockOSThread()
		defer goruntime.UnlockOSThread()
		for j := range jobs {
			j.done <- j.f()
		}
	}()
	pool := sync.Pool{New: func() any { return make(chan error, 1) }}
	do = func(f func() error) error {
		done := pool.Get().(chan error)
		jobs <- job{f, done}
		err := <-done
		pool.Put(done)
		return err
	}
	var once sync.Once
	return do, func() { once.Do(func() { close(jobs) }) }
}
