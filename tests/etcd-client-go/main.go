// Etcd's own Go client against a store: what its library offers above the plain calls (locks, elections, STM, session
// expiry, namespaces, ordering, mirrors), because it relies on details of transactions, watches and leases.
//
// It prints one line per check and exits with 1 at the first that fails.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"go.etcd.io/etcd/client/v3/mirror"
	"go.etcd.io/etcd/client/v3/namespace"
	"go.etcd.io/etcd/client/v3/ordering"
)

var (
	endpoints = flag.String("endpoints", "127.0.0.1:2379", "the stores, with commas between them")
	caFile    = flag.String("cacert", "", "the cluster's CA")
	certFile  = flag.String("cert", "", "the client's certificate")
	keyFile   = flag.String("key", "", "its key")
)

type check struct {
	name string
	run  func(context.Context, *clientv3.Client) error
}

func main() {
	flag.Parse()
	client, err := connect()
	if err != nil {
		fail("connect", err)
	}
	defer client.Close()
	for _, one := range []check{
		{"kv and txn", kv},
		{"watch", watch},
		{"lease keep-alive and expiry", lease},
		{"mutex", mutex},
		{"mutex: try and session expiry", expiry},
		{"election", election},
		{"stm", stm},
		{"namespace", namespaced},
		{"ordering", ordered},
		{"mirror", mirrored},
		{"errors", errorsMatch},
	} {
		ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
		if err := one.run(ctx, client); err != nil {
			fail(one.name, err)
		}
		cancel()
		fmt.Println("ok", one.name)
	}
}

func fail(name string, err error) {
	fmt.Fprintf(os.Stderr, "FAILED %s: %v\n", name, err)
	os.Exit(1)
}

func connect() (*clientv3.Client, error) {
	config := clientv3.Config{Endpoints: strings.Split(*endpoints, ","), DialTimeout: 10 * time.Second}
	if *caFile != "" {
		pem, err := os.ReadFile(*caFile)
		if err != nil {
			return nil, err
		}
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(pem) {
			return nil, errors.New("no certificate in " + *caFile)
		}
		pair, err := tls.LoadX509KeyPair(*certFile, *keyFile)
		if err != nil {
			return nil, err
		}
		config.TLS = &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}}
	}
	return clientv3.New(config)
}

func expect(what string, got, want any) error {
	if fmt.Sprint(got) != fmt.Sprint(want) {
		return fmt.Errorf("%s: %v, expected %v", what, got, want)
	}
	return nil
}

func kv(ctx context.Context, c *clientv3.Client) error {
	for _, key := range []string{"go/a", "go/b", "go/c"} {
		if _, err := c.Put(ctx, key, "1"); err != nil {
			return err
		}
	}
	got, err := c.Get(ctx, "go/", clientv3.WithPrefix(), clientv3.WithSort(clientv3.SortByKey, clientv3.SortDescend), clientv3.WithLimit(2))
	if err != nil {
		return err
	}
	if err := expect("keys", []any{len(got.Kvs), string(got.Kvs[0].Key), got.More, got.Count}, []any{2, "go/c", true, 3}); err != nil {
		return err
	}
	done, err := c.Txn(ctx).If(
		clientv3.Compare(clientv3.Value("go/a"), "=", "1"),
		clientv3.Compare(clientv3.CreateRevision("go/").WithPrefix(), ">", 0),
		clientv3.Compare(clientv3.LeaseValue("go/a"), "=", clientv3.NoLease),
	).Then(
		clientv3.OpTxn(nil, []clientv3.Op{clientv3.OpPut("go/a", "2"), clientv3.OpGet("go/a")}, nil),
		clientv3.OpDelete("go/b", clientv3.WithPrevKV()),
	).Else(clientv3.OpPut("go/wrong", "")).Commit()
	if err != nil {
		return err
	}
	inner := done.Responses[0].GetResponseTxn()
	if err := expect("what a nested txn reads", string(inner.Responses[1].GetResponseRange().Kvs[0].Value), "2"); err != nil {
		return err
	}
	if err := expect("what was deleted", string(done.Responses[1].GetResponseDeleteRange().PrevKvs[0].Value), "1"); err != nil {
		return err
	}
	_, err = c.Delete(ctx, "go/", clientv3.WithPrefix())
	return err
}

func watch(ctx context.Context, c *clientv3.Client) error {
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	put, err := c.Put(ctx, "watch/a", "0")
	if err != nil {
		return err
	}
	all := c.Watch(ctx, "watch/", clientv3.WithPrefix(), clientv3.WithRev(put.Header.Revision), clientv3.WithPrevKV(), clientv3.WithFragment())
	deletes := c.Watch(ctx, "watch/", clientv3.WithPrefix(), clientv3.WithRev(put.Header.Revision), clientv3.WithFilterPut())
	for number := 1; number <= 50; number++ {
		if _, err := c.Put(ctx, "watch/a", fmt.Sprint(number)); err != nil {
			return err
		}
	}
	if _, err := c.Delete(ctx, "watch/a"); err != nil {
		return err
	}
	number := 0
	for number <= 51 {
		answer := <-all
		if err := answer.Err(); err != nil {
			return err
		}
		for _, event := range answer.Events {
			if number <= 50 {
				if err := expect("an event", string(event.Kv.Value), number); err != nil {
					return err
				}
			}
			if number > 0 {
				if err := expect("what was before", string(event.PrevKv.Value), number-1); err != nil {
					return err
				}
			}
			number++
		}
	}
	answer := <-deletes
	if err := expect("deletions alone", []any{len(answer.Events), answer.Events[0].Type.String()}, []any{1, "DELETE"}); err != nil {
		return err
	}
	if err := c.RequestProgress(ctx); err != nil {
		return err
	}
	for answer := range all {
		if answer.IsProgressNotify() {
			break
		}
	}
	return compacted(ctx, c, put.Header.Revision)
}

func compacted(ctx context.Context, c *clientv3.Client, old int64) error {
	now, err := c.Get(ctx, "watch/a")
	if err != nil {
		return err
	}
	if _, err := c.Compact(ctx, now.Header.Revision, clientv3.WithCompactPhysical()); err != nil {
		return err
	}
	answer := <-c.Watch(ctx, "watch/a", clientv3.WithRev(old))
	return expect("a watch of compacted history", []any{answer.Err(), answer.CompactRevision}, []any{rpctypes.ErrCompacted, now.Header.Revision})
}

func lease(ctx context.Context, c *clientv3.Client) error {
	kept, err := c.Grant(ctx, 2)
	if err != nil {
		return err
	}
	if _, err := c.Put(ctx, "lease/kept", "", clientv3.WithLease(kept.ID)); err != nil {
		return err
	}
	keeping, stop := context.WithCancel(ctx)
	defer stop()
	alive, err := c.KeepAlive(keeping, kept.ID)
	if err != nil {
		return err
	}
	for renewals := 0; renewals < 5; renewals++ {
		if answer := <-alive; answer == nil {
			return errors.New("the keep-alive ended")
		}
	}
	held, err := c.Get(ctx, "lease/kept")
	if err != nil {
		return err
	}
	if err := expect("the key of a kept lease", len(held.Kvs), 1); err != nil {
		return err
	}
	gone := c.Watch(ctx, "lease/kept")
	stop()
	answer := <-gone
	if err := expect("its end", answer.Events[0].Type.String(), "DELETE"); err != nil {
		return err
	}
	left, err := c.TimeToLive(ctx, kept.ID)
	if err != nil {
		return err
	}
	return expect("time left", left.TTL, -1)
}

func session(c *clientv3.Client, ttl int) (*concurrency.Session, error) {
	return concurrency.NewSession(c, concurrency.WithTTL(ttl))
}

func mutex(ctx context.Context, c *clientv3.Client) error {
	var inside, most, total int32
	var group sync.WaitGroup
	failures := make(chan error, 8)
	for worker := 0; worker < 8; worker++ {
		group.Add(1)
		go func() {
			defer group.Done()
			s, err := session(c, 30)
			if err != nil {
				failures <- err
				return
			}
			defer s.Close()
			m := concurrency.NewMutex(s, "mutex/one")
			for turn := 0; turn < 10; turn++ {
				if err := m.Lock(ctx); err != nil {
					failures <- err
					return
				}
				now := atomic.AddInt32(&inside, 1)
				if now > atomic.LoadInt32(&most) {
					atomic.StoreInt32(&most, now)
				}
				atomic.AddInt32(&total, 1)
				atomic.AddInt32(&inside, -1)
				if err := m.Unlock(ctx); err != nil {
					failures <- err
					return
				}
			}
		}()
	}
	group.Wait()
	close(failures)
	if err := <-failures; err != nil {
		return err
	}
	return expect("owners at one time, and in all", []int32{most, total}, []int32{1, 80})
}

func expiry(ctx context.Context, c *clientv3.Client) error {
	short, err := session(c, 2)
	if err != nil {
		return err
	}
	owner := concurrency.NewMutex(short, "mutex/expiry")
	if err := owner.Lock(ctx); err != nil {
		return err
	}
	long, err := session(c, 30)
	if err != nil {
		return err
	}
	defer long.Close()
	next := concurrency.NewMutex(long, "mutex/expiry")
	if err := expect("a lock that is taken", next.TryLock(ctx), concurrency.ErrLocked); err != nil {
		return err
	}
	// Nobody renews it any more: the lock is free when the lease ends.
	short.Orphan()
	if err := next.Lock(ctx); err != nil {
		return err
	}
	defer next.Unlock(ctx)
	done, err := c.Txn(ctx).If(owner.IsOwner()).Commit()
	if err != nil {
		return err
	}
	return expect("the first still owns it", done.Succeeded, false)
}

func election(ctx context.Context, c *clientv3.Client) error {
	first, err := session(c, 30)
	if err != nil {
		return err
	}
	defer first.Close()
	second, err := session(c, 30)
	if err != nil {
		return err
	}
	defer second.Close()
	one, two := concurrency.NewElection(first, "election"), concurrency.NewElection(second, "election")
	if _, err := one.Leader(ctx); err != concurrency.ErrElectionNoLeader {
		return fmt.Errorf("a leader before anybody campaigned: %v", err)
	}
	observing, stop := context.WithCancel(ctx)
	defer stop()
	heard := two.Observe(observing)
	if err := one.Campaign(ctx, "one"); err != nil {
		return err
	}
	if err := expect("who leads", string((<-heard).Kvs[0].Value), "one"); err != nil {
		return err
	}
	won := make(chan error, 1)
	go func() { won <- two.Campaign(ctx, "two") }()
	if err := one.Proclaim(ctx, "more"); err != nil {
		return err
	}
	if err := expect("what it proclaims", string((<-heard).Kvs[0].Value), "more"); err != nil {
		return err
	}
	select {
	case err := <-won:
		return fmt.Errorf("two leaders: %v", err)
	case <-time.After(300 * time.Millisecond):
	}
	if err := one.Resign(ctx); err != nil {
		return err
	}
	if err := <-won; err != nil {
		return err
	}
	if err := expect("who leads then", string((<-heard).Kvs[0].Value), "two"); err != nil {
		return err
	}
	return two.Resign(ctx)
}

func stm(ctx context.Context, c *clientv3.Client) error {
	for account := 0; account < 5; account++ {
		if _, err := c.Put(ctx, fmt.Sprintf("stm/%d", account), "100"); err != nil {
			return err
		}
	}
	number := func(text string) (n int) {
		fmt.Sscan(text, &n)
		return n
	}
	var group sync.WaitGroup
	failures := make(chan error, 40)
	for worker := 0; worker < 8; worker++ {
		group.Add(1)
		go func(worker int) {
			defer group.Done()
			for turn := 0; turn < 5; turn++ {
				from, to := fmt.Sprintf("stm/%d", (worker+turn)%5), fmt.Sprintf("stm/%d", (worker*3+turn*2+1)%5)
				_, err := concurrency.NewSTM(c, func(s concurrency.STM) error {
					if from == to {
						return nil
					}
					s.Put(from, fmt.Sprint(number(s.Get(from))-7))
					s.Put(to, fmt.Sprint(number(s.Get(to))+7))
					return nil
				}, concurrency.WithIsolation(concurrency.SerializableSnapshot), concurrency.WithAbortContext(ctx))
				if err != nil {
					failures <- err
				}
			}
		}(worker)
	}
	group.Wait()
	close(failures)
	if err := <-failures; err != nil {
		return err
	}
	all, err := c.Get(ctx, "stm/", clientv3.WithPrefix())
	if err != nil {
		return err
	}
	sum := 0
	for _, kv := range all.Kvs {
		sum += number(string(kv.Value))
	}
	if err := expect("the sum of all accounts", sum, 500); err != nil {
		return err
	}
	_, err = c.Delete(ctx, "stm/", clientv3.WithPrefix())
	return err
}

func namespaced(ctx context.Context, c *clientv3.Client) error {
	kv := namespace.NewKV(c.KV, "space/")
	watcher := namespace.NewWatcher(c.Watcher, "space/")
	if _, err := kv.Put(ctx, "k", "v"); err != nil {
		return err
	}
	outside, err := c.Get(ctx, "space/k")
	if err != nil {
		return err
	}
	if err := expect("the key outside", len(outside.Kvs), 1); err != nil {
		return err
	}
	events := watcher.Watch(ctx, "k", clientv3.WithRev(outside.Kvs[0].ModRevision))
	if err := expect("the key inside", string((<-events).Events[0].Kv.Key), "k"); err != nil {
		return err
	}
	_, err = kv.Delete(ctx, "", clientv3.WithPrefix())
	return err
}

func ordered(ctx context.Context, c *clientv3.Client) error {
	kv := ordering.NewKV(c.KV, func(clientv3.Op, clientv3.OpResponse, int64) error { return errors.New("a read went back in time") })
	for number := 0; number < 50; number++ {
		if _, err := kv.Put(ctx, "ordering/k", fmt.Sprint(number)); err != nil {
			return err
		}
		if _, err := kv.Get(ctx, "ordering/k"); err != nil {
			return err
		}
	}
	_, err := kv.Delete(ctx, "ordering/k")
	return err
}

func mirrored(ctx context.Context, c *clientv3.Client) error {
	for number := 0; number < 20; number++ {
		if _, err := c.Put(ctx, fmt.Sprintf("mirror/%02d", number), "v"); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	syncer := mirror.NewSyncer(c, "mirror/", 0)
	base, failed := syncer.SyncBase(ctx)
	count := 0
	for answer := range base {
		count += len(answer.Kvs)
	}
	if err := <-failed; err != nil {
		return err
	}
	if err := expect("mirrored keys", count, 20); err != nil {
		return err
	}
	updates := syncer.SyncUpdates(ctx)
	if _, err := c.Delete(ctx, "mirror/", clientv3.WithPrefix()); err != nil {
		return err
	}
	for deleted := 0; deleted < 20; {
		answer, open := <-updates
		if err := answer.Err(); err != nil || !open {
			return fmt.Errorf("the updates ended: %v", err)
		}
		deleted += len(answer.Events)
	}
	return nil
}

// Clients match on these values, which the library makes of codes and messages.
func errorsMatch(ctx context.Context, c *clientv3.Client) error {
	_, empty := c.Put(ctx, "", "v")
	_, future := c.Get(ctx, "k", clientv3.WithRev(1<<60))
	_, unknown := c.Revoke(ctx, 12345)
	_, attached := c.Put(ctx, "k", "v", clientv3.WithLease(12345))
	_, absent := c.Put(ctx, "errors/absent", "", clientv3.WithIgnoreValue())
	_, large := c.Put(ctx, "k", strings.Repeat("x", 1_800_000))
	_, member := c.MemberRemove(ctx, 12345)
	ops := make([]clientv3.Op, 129)
	for number := range ops {
		ops[number] = clientv3.OpGet("k")
	}
	_, many := c.Txn(ctx).Then(ops...).Commit()
	_, twice := c.Txn(ctx).Then(clientv3.OpPut("k", "1"), clientv3.OpPut("k", "2")).Commit()
	for _, pair := range [][2]error{
		{empty, rpctypes.ErrEmptyKey}, {future, rpctypes.ErrFutureRev}, {unknown, rpctypes.ErrLeaseNotFound},
		{attached, rpctypes.ErrLeaseNotFound}, {absent, rpctypes.ErrKeyNotFound}, {large, rpctypes.ErrRequestTooLarge},
		{member, rpctypes.ErrMemberNotFound}, {many, rpctypes.ErrTooManyOps}, {twice, rpctypes.ErrDuplicateKey},
	} {
		if !errors.Is(pair[0], pair[1]) {
			return fmt.Errorf("%v, expected %v", pair[0], pair[1])
		}
	}
	return nil
}
