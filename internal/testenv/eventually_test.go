package testenv

import (
	"fmt"
	"runtime"
	"testing"
	"testing/synctest"
	"time"
)

// failing is a test that fails.
type failing struct {
	*testing.T
	message string
}

func (f *failing) Fatalf(format string, args ...any) {
	f.message = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

func TestEventually(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		Eventually(t, "now", func() string { return "" })
		if took := time.Since(began); took != 0 {
			t.Errorf("what holds already took %v", took)
		}
		Eventually(t, "soon", func() string {
			if time.Since(began) < time.Second {
				return "not yet"
			}
			return ""
		})
		if took := time.Since(began); took > 1100*time.Millisecond {
			t.Errorf("what holds after a second took %v", took)
		}
		f, checks, ended := &failing{T: t}, 0, make(chan struct{})
		go func() {
			defer close(ended)
			Eventually(f, "never", func() string { checks++; return fmt.Sprint("check ", checks) })
		}()
		<-ended
		if want := fmt.Sprintf("never: not within 30s: check %d", checks); f.message != want {
			t.Errorf("fails with %q, want %q", f.message, want)
		}
	})
}
