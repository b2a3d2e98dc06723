package protocol

import (
	"strings"
	"testing"
	"time"
)

// TestValue: the timeout of a packet does not end what comes after it.
func TestValue(t *testing.T) {
	holder, agent := connected(t)
	const timeout = 50 * time.Millisecond
	if err := agent.SendValue([]int{1, 2}); err != nil {
		t.Fatal(err)
	}
	var got []int
	if err := holder.ReceiveValue(&got, timeout); err != nil || len(got) != 2 {
		t.Fatalf("%v, %v", got, err)
	}
	ended := make(chan struct{})
	go func() { holder.WaitEnd(); close(ended) }()
	select {
	case <-ended:
		t.Fatal("the wait for the end has the packet's deadline")
	case <-time.After(3 * timeout):
	}
	_ = agent.Close()
	<-ended
}

// TestNoValue: a packet that does not come, or is none, is an error.
func TestNoValue(t *testing.T) {
	holder, agent := connected(t)
	var got []int
	if err := holder.ReceiveValue(&got, time.Millisecond); err == nil || !strings.Contains(err.Error(), "timeout") {
		t.Errorf("no packet: %v", err)
	}
	if err := agent.SendValue("text"); err != nil {
		t.Fatal(err)
	}
	if err := holder.ReceiveValue(&got, time.Second); err == nil {
		t.Error("a text is no list")
	}
}
