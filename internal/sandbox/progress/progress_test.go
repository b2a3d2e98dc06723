package progress

import (
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestSeconds(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0.0 s", 440 * time.Millisecond: "0.4 s", 12*time.Second + 400*time.Millisecond: "12 s", 185 * time.Second: "3 min 05 s",
	} {
		if got := Seconds(d); got != want {
			t.Errorf("%s gives %q, want %q", d, got, want)
		}
	}
}

// A step of less than two seconds is one line; a longer one shows its progress every ten seconds.
func TestStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &buffer{}
		r := New(out)
		quick := r.Start("network")
		<-time.After(time.Second)
		quick.Done("3 namespaces")
		slow := r.Start("nodes")
		slow.Far("0 of 2 ready")
		<-time.After(5 * time.Second)
		slow.Far("1 of 2 ready")
		<-time.After(8 * time.Second)
		slow.Fail()
		want := "ok    network: 3 namespaces (1.0 s)\n" +
			"..    nodes, 0 of 2 ready, 2.0 s\n..    nodes, 1 of 2 ready, 12 s\nFAIL  nodes (13 s)\n"
		if got := out.String(); got != want {
			t.Errorf("got\n%swant\n%s", got, want)
		}
	})
}

type buffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
