package ledger

import (
	"maps"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/podid-io/podid/internal/compute"
	"github.com/podid-io/podid/internal/ledger/ledgertest"
)

func group() compute.Group {
	return compute.Group{Kind: compute.VM, SubscriptionID: "s", ResourceGroup: "rg", Name: "vm"}
}

func newStore() Store {
	api := ledgertest.Limit(fake.NewClientBuilder(), 0).Build()
	return Store{Reader: api, Writer: api, Namespace: "kube-system", Name: "ledger"}
}

func longEntry(n int) (key string, entry Entry) {
	id := ledgertest.LongID(n)
	return Key(id), Entry{ResourceID: id}
}

// Entries stay on their pages, all pages are found after each write, and the last page is deleted
// first.
func TestPages(t *testing.T) {
	store := newStore()
	names := func() (names []string) {
		var list corev1.ConfigMapList
		if err := store.Reader.List(t.Context(), &list); err != nil {
			t.Fatal(err)
		}
		for i := range list.Items {
			names = append(names, strings.TrimPrefix(list.Items[i].Name, store.nameOf(group())))
		}
		return names
	}
	entries := map[string]Entry{}
	for i := range 2000 {
		key, entry := longEntry(i)
		entries[key] = entry
	}
	save := func(want ...string) {
		t.Helper()
		record, err := store.Load(t.Context(), group())
		if err != nil {
			t.Fatal(err)
		}
		if record, err = record.Save(t.Context(), store.Writer, entries); err != nil || !maps.Equal(record.Entries, entries) {
			t.Fatalf("%d entries stored, want %d (%v)", len(record.Entries), len(entries), err)
		}
		if again, err := store.Load(t.Context(), group()); err != nil || !maps.Equal(again.Entries, entries) || !again.SameVersion(record) {
			t.Fatalf("%d entries read, want %d (%v)", len(again.Entries), len(entries), err)
		}
		if got := names(); !slices.Equal(got, want) {
			t.Errorf("pages %q, want %q", got, want)
		}
	}
	save("", "-2", "-3")
	version := func(name string) string {
		var cm corev1.ConfigMap
		if err := store.Reader.Get(t.Context(), client.ObjectKey{Namespace: "kube-system", Name: store.nameOf(group()) + name}, &cm); err != nil {
			t.Fatal(err)
		}
		return cm.ResourceVersion
	}
	first, third := version(""), version("-3")
	entries["new"] = Entry{ResourceID: "new"}
	save("", "-2", "-3")
	if version("") == first || version("-3") != third {
		t.Error("writes other pages than the one that changed")
	}
	remove := func(n int) {
		for i := range n {
			key, _ := longEntry(i)
			delete(entries, key)
		}
	}
	remove(1000) // the whole first page and more
	delete(entries, "new")
	save("", "-2", "-3")
	remove(1900)
	save("", "-2", "-3")
	clear(entries)
	save()
}

// An older release wrote a single page, which may be larger than a page is now.
func TestOldPage(t *testing.T) {
	store := newStore()
	record, err := store.Load(t.Context(), group())
	if err != nil {
		t.Fatal(err)
	}
	p := page{number: 1, entries: map[string]Entry{}}
	for i := range 1500 {
		key, entry := longEntry(i)
		p.entries[key] = entry
	}
	cm, err := record.document(p)
	if err != nil {
		t.Fatal(err)
	}
	cm.Data[identitiesKey] = strings.ReplaceAll(cm.Data[identitiesKey], "\n", "")
	if err := store.Writer.Create(t.Context(), cm); err != nil {
		t.Fatal(err)
	}
	record, err = store.Load(t.Context(), group())
	if err != nil || !maps.Equal(record.Entries, p.entries) {
		t.Fatalf("%d entries, want %d (%v)", len(record.Entries), len(p.entries), err)
	}
	entries := maps.Clone(p.entries)
	entries["new"] = Entry{ResourceID: "new"}
	record, err = record.Save(t.Context(), store.Writer, entries)
	if err != nil || len(record.pages) != 2 || len(record.pages[1].entries) != 1 {
		t.Errorf("%d pages (%v)", len(record.pages), err)
	}
}

func TestPageName(t *testing.T) {
	for name, want := range map[string]struct {
		first  string
		number int
	}{
		"aad-pod-identity-config-0123456789":    {"aad-pod-identity-config-0123456789", 1},
		"aad-pod-identity-config-0123456789-12": {"aad-pod-identity-config-0123456789", 12},
		"ledger-2":                              {"ledger-2", 1},
	} {
		if first, number := parsePageName(name); first != want.first || number != want.number {
			t.Errorf("%s: %s, %d", name, first, number)
		}
	}
	first := Store{Namespace: "n", Name: "ledger"}.nameOf(group())
	records := Records([]corev1.ConfigMap{
		{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: pageName(first, 2)}},
		{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: pageName(first, 1)}},
	})
	if len(records) != 1 || records[0].Name != first || records[0].Damaged == nil || len(records[0].pages) != 2 {
		t.Errorf("%+v", records)
	}
}
