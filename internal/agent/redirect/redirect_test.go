// The configuration, the rules as text, and the differences between two rulesets, without a kernel.

package redirect

import (
	"encoding/binary"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

func testConfig() Config {
	return Config{
		MetadataIP: netip.MustParseAddr(DefaultMetadataIP), MetadataPort: DefaultMetadataPort,
		AgentIP: netip.MustParseAddr(DefaultAgentIP), AgentPort: 2579, Table: DefaultTable, BlockWireServer: true,
	}
}

func TestConfig(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*Config)
		want   string // part of the error; empty for none
	}{
		{"defaults", func(*Config) {}, ""},
		{"any port", func(c *Config) { c.AgentPort = 0 }, ""},
		{"other metadata address", func(c *Config) { c.MetadataIP = netip.MustParseAddr("10.1.2.3") }, ""},
		{"no metadata address", func(c *Config) { c.MetadataIP = netip.Addr{} }, "metadata address"},
		{"IPv6 metadata address", func(c *Config) { c.MetadataIP = netip.MustParseAddr("fe80::1") }, "IPv4"},
		{"loopback metadata address", func(c *Config) { c.MetadataIP = netip.MustParseAddr("127.0.0.1") }, "metadata address"},
		{"no metadata port", func(c *Config) { c.MetadataPort = 0 }, "1 to 65535"},
		{"no agent address", func(c *Config) { c.AgentIP = netip.Addr{} }, "agent address"},
		{"loopback agent address", func(c *Config) { c.AgentIP = netip.MustParseAddr("127.0.0.1") }, "link-local"},
		{"agent address of a pod", func(c *Config) { c.AgentIP = netip.MustParseAddr("10.244.0.9") }, "link-local"},
		{"the metadata address itself", func(c *Config) { c.AgentIP = c.MetadataIP }, "must differ"},
		{"DNS cache", func(c *Config) { c.AgentIP = netip.MustParseAddr("169.254.20.10") }, "NodeLocal DNSCache"},
		{"another agent", func(c *Config) { c.AgentIP = netip.MustParseAddr("169.254.170.23") }, "credential agents"},
		{"pod gateway", func(c *Config) { c.AgentIP = netip.MustParseAddr("169.254.1.1") }, "Azure CNI"},
		{"no table", func(c *Config) { c.Table = "" }, "nftables table"},
		{"hostile secret", func(c *Config) { c.HandoverSecret = "a b" }, "letters and digits"},
		{"hostile table", func(c *Config) { c.Table = "x }; flush ruleset" }, "letters, digits"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := testConfig()
			tt.change(&c)
			_, err := New(c)
			switch {
			case tt.want == "" && err != nil:
				t.Errorf("got %v, want none", err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("got %v, want %q in it", err, tt.want)
			}
		})
	}
}

func TestConfigAllErrors(t *testing.T) {
	_, err := New(Config{})
	if err == nil || strings.Count(err.Error(), "\n") != 3 {
		t.Errorf("got %v, want one line per field", err)
	}
}

func TestEnsureBeforeListen(t *testing.T) {
	r := &Redirect{config: testConfig()}
	if err := r.ensureRules(t.Context(), &outcome{}); err == nil || !strings.Contains(err.Error(), "Listen") {
		t.Errorf("got %v, want the missing step named", err)
	}
}

// TestRulesAsDocumented keeps docs/interception.md and the rules the same: the page is the golden
// file.
func TestRulesAsDocumented(t *testing.T) {
	page, err := os.ReadFile("../../../docs/interception.md")
	if err != nil {
		t.Fatal(err)
	}
	_, block, _ := strings.Cut(string(page), "```nft\n")
	want, _, _ := strings.Cut(block, "```")
	if d := cmp.Diff(want, build(testConfig(), 2579, 8123456789).String()); d != "" {
		t.Errorf("rules differ from docs/interception.md (-page +rules):\n%s", d)
	}
}

func TestDiff(t *testing.T) {
	want := func() ruleset { return build(testConfig(), 2579, 5) }
	chainOf := func(s *ruleset, name string) *chain {
		for i := range s.chains {
			if s.chains[i].name == name {
				return &s.chains[i]
			}
		}
		return nil
	}
	for _, tt := range []struct {
		name   string
		change func(*ruleset)
		want   plan
	}{
		{"nothing", func(*ruleset) {}, plan{exists: true}},
		{"counted packets", func(s *ruleset) {
			chainOf(s, refuseChain).rules[1].exprs[0] = &expr.Counter{Packets: 7, Bytes: 420}
		}, plan{exists: true}},
		{"filled in by the kernel", func(s *ruleset) {
			exprs := chainOf(s, divertChain).rules[0].exprs
			nat := exprs[len(exprs)-1].(*expr.NAT)
			nat.RegAddrMax, nat.RegProtoMax, nat.Specified = nat.RegAddrMin, nat.RegProtoMin, true
		}, plan{exists: true}},
		{"other port", func(s *ruleset) { *s = build(testConfig(), 2580, 5) }, plan{exists: true, chains: []string{divertChain}}},
		{"other generation", func(s *ruleset) { *s = build(testConfig(), 2579, 4) }, plan{exists: true, chains: []string{divertChain}}},
		{"other agent address", func(s *ruleset) {
			c := testConfig()
			c.AgentIP = netip.MustParseAddr("169.254.171.80")
			*s = build(c, 2579, 5)
		}, plan{exists: true, chains: []string{guardChain, divertChain, forwardChain}}},
		{"rule missing", func(s *ruleset) {
			c := chainOf(s, forwardChain)
			c.rules = c.rules[1:]
		}, plan{exists: true, chains: []string{forwardChain}}},
		{"rule twice", func(s *ruleset) {
			c := chainOf(s, inputChain)
			c.rules = append(c.rules, c.rules...)
		}, plan{exists: true, chains: []string{inputChain}}},
		{"other priority", func(s *ruleset) { chainOf(s, divertChain).hook.priority = 0 }, plan{exists: true, whole: true}},
		{"other policy", func(s *ruleset) { chainOf(s, inputChain).hook.policy = nftables.ChainPolicyDrop }, plan{exists: true, whole: true}},
		{"chain missing", func(s *ruleset) { s.chains = s.chains[1:] }, plan{exists: true, whole: true}},
		{"dormant", func(s *ruleset) { s.dormant = true }, plan{exists: true, whole: true}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			have := want()
			tt.change(&have)
			if d := cmp.Diff(tt.want, diff(want(), &have), cmp.AllowUnexported(plan{})); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
	if d := cmp.Diff(plan{whole: true}, diff(want(), nil), cmp.AllowUnexported(plan{})); d != "" {
		t.Errorf("no table (-want +got):\n%s", d)
	}
}

func TestOwner(t *testing.T) {
	config := testConfig()
	config.HandoverSecret = "0123abc"
	rules := build(config, 2580, 77)
	by, ok := rules.owner()
	if !ok || by.generation != 77 || by.secret != "0123abc" || by.target.String() != DefaultAgentIP+":2580" {
		t.Errorf("got %+v, %v", by, ok)
	}
	for name, change := range map[string]func(*ruleset){
		"other comment": func(s *ruleset) { s.chains[2].rules[0].comment = "another program" },
		"no rule":       func(s *ruleset) { s.chains[2].rules = nil },
		"no chain":      func(s *ruleset) { s.chains = nil },
		"other rule":    func(s *ruleset) { s.chains[2].rules[0].exprs = drop() },
		"switched off":  func(s *ruleset) { s.dormant = true },
	} {
		s := build(testConfig(), 2580, 77)
		change(&s)
		if _, ok := s.owner(); ok {
			t.Errorf("%s: still has an owner", name)
		}
	}
	if _, ok := (*ruleset)(nil).owner(); ok {
		t.Error("no table has an owner")
	}
}

func TestPrintOtherRules(t *testing.T) {
	for _, tt := range []struct {
		want string
		rule []expr.Any
	}{
		{"meta l4proto tcp drop", join(tcp(), drop())},
		{"iif != 7", []expr.Any{
			&expr.Meta{Key: expr.MetaKeyIIF, Register: 1},
			&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: binary.NativeEndian.AppendUint32(nil, 7)},
		}},
		{"dnat to 0x:0x", []expr.Any{&expr.NAT{Type: expr.NATTypeDestNAT, RegAddrMin: 1}}},
		{"unknown *expr.Log", []expr.Any{&expr.Log{}}},
	} {
		if got := (rule{exprs: tt.rule}).String(); got != tt.want {
			t.Errorf("got %q, want %q", got, tt.want)
		}
	}
}
