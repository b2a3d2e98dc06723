package nmi

import (
	"io"
	"net/netip"
	"testing"
	"time"
)

func TestFlags(t *testing.T) {
	for name, args := range map[string][]string{
		"row":     {"-only", "everything"},
		"output":  {"-o", "xml"},
		"number":  {"-rolls", "0"},
		"moments": {"-moments", "501"},
		"time":    {"-outage", "1h"},
		"churn":   {"-churn", "0s"},
		"flag":    {"-nonsense"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := parse(args, io.Discard); err == nil {
				t.Error("no error")
			}
		})
	}
}

func TestOnly(t *testing.T) {
	all, err := parse(nil, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	some, err := parse([]string{"-only", "cache", "-only", "roll"}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range new(bench).rows() {
		if !all.wants(r) || some.wants(r) != (r.Name == "cache" || r.Name == "roll") {
			t.Errorf("row %s: %v without -only, %v with two others", r.Name, all.wants(r), some.wants(r))
		}
	}
}

// TestPodAddresses: all addresses are different, and none is a network address or the gateway.
func TestPodAddresses(t *testing.T) {
	seen := map[netip.Addr]bool{gateway(): true}
	for _, a := range podAddresses(manyPods + maxMoments) {
		if last := a.As4()[3]; seen[a] || last == 0 || last == 255 {
			t.Errorf("address %s", a)
		}
		seen[a] = true
	}
}

// TestTokenLifetime: tokens are due for a refresh before the outage ends, and outlive it.
func TestTokenLifetime(t *testing.T) {
	for _, outage := range []time.Duration{20 * time.Second, time.Minute, 3 * time.Minute} {
		life := tokenLifetime(outage)
		if old := life * 3 / 4; old > outage || life < outage+3*time.Second {
			t.Errorf("an outage of %s, tokens of %s", outage, life)
		}
	}
}

// TestWorld: there is one machine, and it has all identities.
func TestWorld(t *testing.T) {
	doc := azure()
	if _, err := doc.Marshal(); err != nil {
		t.Error(err)
	}
	if n := len(doc.VirtualMachines[0].Identities); n != manyIdentities+maxMoments {
		t.Errorf("%d identities", n)
	}
}
