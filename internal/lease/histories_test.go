package lease

import (
	"math/rand/v2"
	"strconv"
	"testing"
	"testing/synctest"
	"time"
)

// TestHistories: whatever happens to the lines of three replicas, never two lead,
// and when all is well again, one does.
func TestHistories(t *testing.T) {
	for seed := range uint64(30) {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				random := rand.New(rand.NewPCG(seed, 3)) //nolint:gosec // repeatable
				w, s := newWorld(t), newServer()
				replicas := map[string]*replica{}
				for step := range 60 {
					name := []string{"a", "b", "c"}[random.IntN(3)]
					r := replicas[name]
					if r == nil {
						// A process of its own name each time, as pods have.
						replicas[name] = w.run(s, name+strconv.Itoa(step))
						continue
					}
					switch random.IntN(8) {
					case 0:
						r.stop()
						<-r.done
						replicas[name] = nil
					case 1:
						r.kill()
						defer r.stop()
						replicas[name] = nil
					default:
						r.set(func(l *line) {
							l.cut, l.lost, l.silent = random.IntN(4) == 0, random.IntN(6) == 0, random.IntN(3) == 0
							l.delay = time.Duration(random.Int64N(int64(3 * time.Second)))
						})
					}
					pass(time.Duration(random.Int64N(int64(6 * time.Second))))
					for n, r := range replicas {
						if r != nil && w.told(r.name) != nil { // its next term
							<-r.done
							replicas[n] = nil
						}
					}
				}
				for n, r := range replicas {
					if r == nil {
						replicas[n] = w.run(s, n)
						continue
					}
					r.set(func(l *line) { l.cut, l.lost, l.silent, l.delay = false, false, false, 0 })
				}
				pass(3 * duration)
				leads := w.leader()
				if leads == "" {
					t.Error("nobody leads")
				}
				for _, r := range replicas {
					if r != nil {
						r.stop()
						<-r.done
					}
				}
			})
		})
	}
}
