package process

import (
	"os"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestParseStat(t *testing.T) {
	const tail = " S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20\n"
	tests := []struct {
		name, stat string
		start      uint64
		state      byte
		wantErr    bool
	}{
		{name: "plain", stat: "12 (etcd)" + tail, start: 4711, state: 'S'},
		{name: "hostile name", stat: "12 (a) Z 9 (b)" + tail, start: 4711, state: 'S'},
		{name: "cut off", stat: "12 (etcd) S 1", wantErr: true},
		{name: "empty", wantErr: true},
		{name: "no number", stat: "12 (etcd) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 x 20", wantErr: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			start, state, err := parseStat([]byte(tt.stat))
			if (err != nil) != tt.wantErr || start != tt.start || state != tt.state {
				t.Errorf("got %d %c %v", start, state, err)
			}
		})
	}
}

// A process is recognized, and another one with the same ID is not.
func TestIdentity(t *testing.T) {
	id, err := Identify(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if !id.Alive() {
		t.Error("this very process is not alive")
	}
	other := id
	other.Start--
	if other.Alive() {
		t.Error("a process of another time is taken for this one")
	}
	if err := other.Signal(unix.SIGKILL); err != nil {
		t.Errorf("signal to a process that is gone: %v", err)
	}
	rebooted := id
	rebooted.Boot = "another boot"
	if rebooted.Alive() {
		t.Error("a process of before the reboot is taken for this one")
	}
}

func TestKill(t *testing.T) {
	cmd := exec.Command("sleep", "600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	id, err := Identify(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if id.Wait(time.Millisecond) {
		t.Error("it is said to have ended")
	}
	if err := Kill(id); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err == nil {
		t.Error("it ended by itself")
	}
	if id.Alive() {
		t.Error("it is said to be alive")
	}
}
